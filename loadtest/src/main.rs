//! Load generator, dummy backend and comparison runner of ringway; see README.md beside it.

mod args;
mod backend;
mod bulk;
mod compare;
mod h2;
mod histogram;
mod http;
mod idle;
mod load;
mod process;
mod proxies;
mod report;
mod scenario;
mod svg;
mod sys;
mod tls;

use std::process::ExitCode;

use args::Args;

const USAGE: &str = "\
usage: ringway-loadtest COMMAND [OPTIONS]

  backend [--listen 127.0.0.1:9000]... [--core N]
      answer GET /BYTES with that many bytes
  load URL [--connections 64] [--seconds 10] [--warmup 1] [--rate PER_SECOND]
       [--new-connections] [--expect BYTES] [--pid PROXY_PID] [--core N]
       [--resume] [--streams PER_CONNECTION] [--grpc]
      closed loop, or open loop at a fixed rate; over TLS if the URL says so, its handshakes
      resumed with --resume; over HTTP/2 with --streams or --grpc
  bulk ADDRESS [--sink 127.0.0.1:9000]... [--flows 8] [--seconds 10] [--warmup 1]
       [--pid PROXY_PID] [--core N]
      TCP flows at full speed through the proxy at ADDRESS to the sink, which this command is too
  idle URL --pid PROXY_PID [--connections 10000] [--settle 5] [--untouched] [--h2]
      memory (PSS) per idle connection after one request, or before it
  compare [--rounds 5] [--seconds 3] [--warmup 0.5] [--settle 5]
          [--scenario NAME[,NAME]...]... [--group http|stream|tls|h2]...
          [--binary target/release/ringway] [--nginx PATH]... [--haproxy PATH]...
          [--proxies ringway,nginx,haproxy] [--out DIR] [--proxy-core 0] [--load-core 1] [--check]
      ringway beside nginx and HAProxy; --check exits 1 when a target is missed
";

/// What every command returns: an error is one line for the user.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let words: Vec<String> = words.collect();
    match dispatch(&command, &words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringway-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &str, words: &[String]) -> Outcome<ExitCode> {
    // The backend has nothing to clean up: signals may simply end it.
    if command != "backend" {
        sys::catch_interrupts();
    }
    match command {
        "backend" => backend::main(&Args::parse(words, &["listen", "core"], &[])?)?,
        "load" => {
            let options = [
                "connections",
                "seconds",
                "warmup",
                "rate",
                "expect",
                "pid",
                "core",
                "streams",
            ];
            let switches = ["new-connections", "resume", "grpc"];
            load::main(&Args::parse(words, &options, &switches)?)?;
        }
        "bulk" => {
            let options = ["sink", "flows", "seconds", "warmup", "pid", "core"];
            bulk::main(&Args::parse(words, &options, &[])?)?;
        }
        "idle" => {
            let options = ["pid", "connections", "settle"];
            idle::main(&Args::parse(words, &options, &["untouched", "h2"])?)?;
        }
        "compare" => return compare::main(&Args::parse(words, compare::OPTIONS, &["check"])?),
        "help" | "-h" | "--help" => print!("{USAGE}"),
        "" => return Err(format!("no command given\n\n{USAGE}").into()),
        other => return Err(format!("unknown command \"{other}\"\n\n{USAGE}").into()),
    }
    Ok(ExitCode::SUCCESS)
}
