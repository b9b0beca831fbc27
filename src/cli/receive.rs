//! `forebay receive`: the far side, until told to stop.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::results::{Results, ResultsFormat};
use super::run::{on_edges, stop_on_signal};
use super::{Outcome, print};
use crate::config::{MqttConfig, MqttVersion, Secret};
use crate::receive::{Pack, ReceiveOptions, Received, Receiver};
use crate::record::Record;
use crate::time::Span;

/// `forebay receive`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "A record is on disk before its sender gets an answer; one that comes again is counted and not kept twice.\nExample:\n  forebay receive --out received --listen 0.0.0.0:8090 --token-file token"
)]
pub struct ReceiveArgs {
    /// Folder of the records. It holds finished files and one open file (`.open`, NDJSON).
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
    /// Where parcels are posted, on any path. Absent: 127.0.0.1:8090, or nowhere with `--broker`.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// File of the token that senders over HTTP have to show. Absent: anybody may post.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A broker to take records and parcels from ("mqtts://cloud.example").
    #[arg(long, value_name = "URL", help_heading = "MQTT")]
    pub broker: Option<String>,
    /// Topic filter; once for each.
    #[arg(long, value_name = "FILTER", default_value = "forebay/#", help_heading = "MQTT")]
    pub topic: Vec<String>,
    /// Client id at the broker, which keeps this receiver's session under it.
    #[arg(long, value_name = "ID", default_value = "forebay-receive", help_heading = "MQTT")]
    pub client_id: String,
    /// The broker speaks MQTT 3.1.1 only.
    #[arg(long, help_heading = "MQTT")]
    pub mqtt_3: bool,
    /// Environment variable of the user name.
    #[arg(long, value_name = "NAME", help_heading = "MQTT")]
    pub user_env: Option<String>,
    /// Environment variable of the password.
    #[arg(long, value_name = "NAME", requires = "user_env", help_heading = "MQTT")]
    pub password_env: Option<String>,
    /// File of the certificate authority that signed the broker's certificate. Absent: the system's.
    #[arg(long, value_name = "FILE", help_heading = "MQTT")]
    pub ca: Option<PathBuf>,
    /// What finished files are; both where both are named.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "parquet",
        value_name = "FORMAT"
    )]
    pub format: Vec<KeptFormat>,
    /// A file is finished at so many bytes of NDJSON.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub roll_size: bytesize::ByteSize,
    /// A file with records in it is finished after so long.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub roll_after: Span,
    /// How many ids are remembered to find repeats; 64 bytes of memory each.
    #[arg(long, value_name = "N", default_value_t = 2_000_000)]
    pub remember: usize,
    /// Print JSON to standard output: a line with the address when parcels are taken, one with all counts at the end.
    #[arg(long)]
    pub json: bool,
}

/// Files that received records are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeptFormat {
    /// Tables, for analysis.
    Parquet,
    /// The records as they came, one a line.
    Ndjson,
}

/// Receives until SIGINT or SIGTERM.
pub(super) fn receive(args: &ReceiveArgs) -> anyhow::Result<Outcome> {
    let options = options(args);
    let open = options.listen.as_ref().filter(|_| options.token.is_none());
    if let Some(address) = open.filter(|address| !is_loopback(address)) {
        tracing::warn!(
            address,
            "anyone who reaches this address can post records: there is no token"
        );
    }
    on_edges(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone(), || tracing::info!("stopping; once more to stop at once"))?;
        let receiver = Receiver::start(options, stop).await?;
        let address = receiver.address().map(|address| address.to_string());
        if args.json {
            print(&format!("{}\n", serde_json::json!({ "listening": address })))?;
        }
        let found = receiver.counts().found;
        tracing::info!(folder = %args.out.display(), address, found, "records are taken");
        let received = receiver.join().await?;
        tell(&received);
        if args.json {
            print(&(serde_json::to_string(&received)? + "\n"))?;
        }
        Ok(Outcome::Fine)
    })
}

fn options(args: &ReceiveArgs) -> ReceiveOptions {
    let broker = args.broker.clone().map(|url| {
        let config = MqttConfig {
            url,
            version: if args.mqtt_3 { MqttVersion::V311 } else { MqttVersion::V5 },
            client_id: Some(args.client_id.clone()),
            user: args.user_env.clone().map(Secret::Env),
            password: args.password_env.clone().map(Secret::Env),
            ca: args.ca.clone(),
            ..MqttConfig::default()
        };
        (config, args.topic.clone())
    });
    let usual = || broker.is_none().then(|| "127.0.0.1:8090".to_owned());
    let parquet = args.format.contains(&KeptFormat::Parquet);
    ReceiveOptions {
        folder: args.out.clone(),
        listen: args.listen.clone().or_else(usual),
        token: args.token_file.clone().map(Secret::File),
        broker,
        pack: Pack {
            ndjson: args.format.contains(&KeptFormat::Ndjson),
            table: parquet.then_some(("parquet", to_parquet)),
        },
        roll_bytes: args.roll_size.as_u64(),
        roll_after: args.roll_after.to_std(),
        remember: args.remember,
    }
}

fn is_loopback(address: &str) -> bool {
    let ip = address.parse::<std::net::SocketAddr>().map(|address| address.ip());
    ip.map_or_else(|_| address.starts_with("localhost:"), |ip| ip.is_loopback())
}

fn to_parquet(lines: &Path, table: &Path) -> Result<(), String> {
    let make = || -> anyhow::Result<()> {
        let target = table.to_str().ok_or_else(|| anyhow::anyhow!("its name is not text"))?;
        let mut results = Results::create(target, Some(ResultsFormat::Parquet))?;
        for line in BufReader::with_capacity(1 << 18, File::open(lines)?).lines() {
            results.write(&serde_json::from_str::<Record>(&line?)?)?;
        }
        results.finish()?;
        Ok(())
    };
    make().map_err(|error| format!("{error:#}"))
}

fn tell(received: &Received) {
    tracing::info!(
        parcels = received.parcels,
        records = received.records,
        repeats = received.repeats,
        lost = received.lost,
        unreadable = received.unreadable,
        files = received.files,
        "stopped"
    );
}
