//! `forebay receive`: the far side, until told to stop.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::args::{KeptFormat, ReceiveArgs};
use super::results::{Results, ResultsFormat};
use super::run::{on_edges, stop_on_signal};
use super::{Outcome, print};
use crate::config::{MqttConfig, MqttVersion, Secret};
use crate::receive::{Pack, ReceiveOptions, Received, Receiver};
use crate::record::Record;

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
