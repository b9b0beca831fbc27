//! What `doctor` finds on the machine itself: build, processor, memory, store, clock.

use std::path::Path;

use bytesize::ByteSize;

use super::{Finding, Health};
use crate::config::{Config, StoreConfig, space};
use crate::model::Runtime;
use crate::model::runtime::Backend;

/// Looks at the machine.
pub(super) fn look(config: Option<&Config>) -> Vec<Finding> {
    let mut all = vec![build(), processor(), memory()];
    all.extend(runtime(config));
    if let Some(config) = config {
        all.push(store(&config.store));
        all.push(disk(&config.store));
    }
    all.push(clock());
    all
}

fn build() -> Finding {
    let kind = if cfg!(debug_assertions) { "debug" } else { "release" };
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let finding = Finding::new(
        "build",
        Health::Good,
        format!("{} {kind}, {target}", env!("CARGO_PKG_VERSION")),
    );
    if cfg!(debug_assertions) {
        return Finding { health: Health::Warning, ..finding }
            .advise("a debug build is many times slower; build with --release");
    }
    finding
}

fn processor() -> Finding {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let features = features().join(" ");
    Finding::new("processor", Health::Info, format!("{cores} cores, {features}"))
}

/// The vector instructions that matter to models.
fn features() -> Vec<&'static str> {
    let mut all = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("sse4.2", std::arch::is_x86_feature_detected!("sse4.2")),
            ("avx", std::arch::is_x86_feature_detected!("avx")),
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
        ];
        all.extend(known.iter().filter(|(_, there)| *there).map(|(name, _)| *name));
    }
    #[cfg(target_arch = "aarch64")]
    {
        let known = [
            ("neon", std::arch::is_aarch64_feature_detected!("neon")),
            ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
            ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ];
        all.extend(known.iter().filter(|(_, there)| *there).map(|(name, _)| *name));
    }
    if all.is_empty() { vec!["no vector instructions known here"] } else { all }
}

fn memory() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |key: &str| {
        let line = text.lines().find(|l| l.starts_with(key))?;
        let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(ByteSize::kib(kilobytes))
    };
    match (of("MemTotal:"), of("MemAvailable:")) {
        (Some(total), Some(free)) => {
            let finding = Finding::new("memory", Health::Good, format!("{free} free of {total}"));
            if free < ByteSize::mib(256) {
                return Finding { health: Health::Warning, ..finding }
                    .advise("a node under load takes up to 150 MiB; free some");
            }
            finding
        }
        _ => Finding::new("memory", Health::Info, "unknown: /proc/meminfo is not here"),
    }
}

/// Which ONNX Runtime is used, and which were passed over.
fn runtime(config: Option<&Config>) -> Vec<Finding> {
    let library = config.and_then(|c| c.onnxruntime.library.as_deref());
    let runtime = match Runtime::find(library) {
        Ok(runtime) => runtime,
        Err(error) => return vec![Finding::new("runtime", Health::Bad, error.to_string())],
    };
    let found = Finding::new("runtime", Health::Good, runtime.to_string());
    let found = match runtime.backend {
        Backend::OnnxRuntime => found,
        Backend::Tract => found.advise(
            "models run on the built-in runtime; an ONNX Runtime (Python package `onnxruntime`, or ORT_DYLIB_PATH) is faster",
        ),
    };
    let passed = runtime.tried.iter().map(|attempt| {
        let tried = format!("{} ({}): {}", attempt.path.display(), attempt.place, attempt.reason);
        Finding::new("passed over", Health::Info, tried)
    });
    std::iter::once(found).chain(passed).collect()
}

fn store(store: &StoreConfig) -> Finding {
    let shown = crate::diagnose::source::shown_path(&store.path);
    if !store.path.exists() {
        return Finding::new("store", Health::Info, format!("{shown}: not made yet"));
    }
    let used = ByteSize::b(space::used_by(&store.path));
    match writable(&store.path) {
        Ok(()) => Finding::new("store", Health::Good, format!("{shown}: {used}, can be written")),
        Err(error) => Finding::new("store", Health::Bad, format!("{shown}: {used}, cannot be written: {error}"))
            .advise("give the user of the node this folder, and check that the disk is not mounted read-only"),
    }
}

/// Whether the folder may be written, by asking; nothing is written.
fn writable(folder: &Path) -> std::io::Result<()> {
    let may = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(folder, may).map_err(std::io::Error::from)
}

fn disk(store: &StoreConfig) -> Finding {
    let Some(free) = space::free_for(&store.path).map(ByteSize::b) else {
        return Finding::new("disk", Health::Info, "free space unknown");
    };
    let lanes = [store.alarm_limit, store.score_limit, store.feature_limit, store.raw_limit];
    let lanes: u64 = lanes.iter().map(ByteSize::as_u64).sum();
    let wanted = ByteSize::b(
        (lanes + store.free_floor.as_u64()).saturating_sub(space::used_by(&store.path)),
    );
    if free < wanted {
        return Finding::new(
            "disk",
            Health::Bad,
            format!("{free} free, and the store may want {wanted} more"),
        )
        .advise("lower the limits in [store], or free some space");
    }
    Finding::new("disk", Health::Good, format!("{free} free; the store may want {wanted} more"))
}

/// Whether something keeps the clock right: event times from devices are compared with it.
fn clock() -> Finding {
    let advice = "run an NTP client (systemd-timesyncd, chrony): readings with the devices' time are compared with this clock";
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Finding::new("clock", Health::Good, "synchronised (systemd-timesyncd)");
    }
    let chrony = ["/run/chrony/chronyd.pid", "/run/chronyd.pid", "/run/ntpd.pid"];
    if let Some(client) = chrony.iter().find(|p| Path::new(p).exists()) {
        return Finding::new("clock", Health::Good, format!("an NTP client runs ({client})"));
    }
    if Path::new("/run/systemd/timesync").exists() {
        return Finding::new(
            "clock",
            Health::Warning,
            "systemd-timesyncd runs and has not synchronised yet",
        )
        .advise(advice);
    }
    Finding::new(
        "clock",
        Health::Info,
        format!("{}; unknown whether anything keeps it right", crate::time::now()),
    )
    .advise(advice)
}
