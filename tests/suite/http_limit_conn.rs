//! `limit_conn` for requests.

use crate::common::*;

const GET: &str = "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";

/// A server with `conf` at its top whose `/slow` hangs until the client gives up.
fn server(zones: &str, conf: &str, backend: &Backend) -> Server {
    http(
        &format!(
            r#"
            {zones}
            log_format status "$request_uri $status $limit_conn_status";
            access_log %%DIR%%/status.log status;
            server {{
                listen 127.0.0.1:%%P0%%;
                {conf}
                location /slow {{ proxy_pass http://127.0.0.1:%%B0%%; }}
                location /free {{ limit_conn other 1; root %%DIR%%; try_files /nginx.conf =404; }}
                location / {{ root %%DIR%%; try_files /nginx.conf =404; }}
            }}
        "#
        ),
        &[backend],
    )
}

const ZONES: &str = "limit_conn_zone $binary_remote_addr zone=one:1m;
    limit_conn_zone $arg_key zone=other:1m;";

/// A request that is being served.
fn hold(s: &Server, backend: &Backend) -> Conn {
    let before = backend.connections();
    let mut c = s.connect();
    c.send(GET);
    wait_for("a held request", || backend.connections() > before);
    c
}

#[test]
fn one_above_the_limit_is_refused() {
    let backend = Backend::silent();
    let s = server(ZONES, "limit_conn one 2;", &backend);
    let first = hold(&s, &backend);
    let second = hold(&s, &backend);
    assert_eq!(s.get("/").status, 503);
    assert_eq!(s.get("/free").status, 200);
    s.wait_for_text("error.log", "[error] ");
    s.wait_for_text(
        "error.log",
        "limiting connections by zone \"one\", client: 127.0.0.1, ",
    );
    drop(first);
    wait_for("a free place", || s.get("/").status == 200);
    drop(second);
    s.wait_for_text("status.log", "/ 503 REJECTED\n");
    s.wait_for_text("status.log", "/ 200 PASSED\n");
}

#[test]
fn keys_are_counted_apart_and_empty_ones_not_at_all() {
    let backend = Backend::silent();
    let s = server(
        ZONES,
        "limit_conn other 1; limit_conn_status 429;",
        &backend,
    );
    let slow = |query: &str| {
        let before = backend.connections();
        let mut c = s.connect();
        c.send(format!("GET /slow{query} HTTP/1.1\r\nHost: x\r\n\r\n"));
        wait_for("a held request", || backend.connections() > before);
        c
    };
    let held = [slow("?key=a"), slow("?key=b"), slow(""), slow("")];
    assert_eq!(s.get("/?key=a").status, 429);
    assert_eq!(s.get("/?key=c").status, 200);
    assert_eq!(s.get("/").status, 200);
    drop(held);
}

#[test]
fn a_dry_run_only_talks() {
    let backend = Backend::silent();
    let conf = "limit_conn one 1; limit_conn_dry_run on; limit_conn_log_level warn;";
    let s = server(ZONES, conf, &backend);
    let held = hold(&s, &backend);
    assert_eq!(s.get("/").status, 200);
    s.wait_for_text("error.log", "[warn] ");
    s.wait_for_text(
        "error.log",
        "limiting connections, dry run, by zone \"one\"",
    );
    s.wait_for_text("status.log", "/ 200 REJECTED_DRY_RUN\n");
    drop(held);
}

#[test]
fn counts_outlive_a_reload() {
    let backend = Backend::silent();
    let s = server(ZONES, "limit_conn one 1;", &backend);
    let held = hold(&s, &backend);
    if !is_nginx() {
        // nginx waits for the request before it says that the reload is over.
        s.reload();
        assert_eq!(s.get("/").status, 503);
    }
    drop(held);
    wait_for("a free place", || s.get("/").status == 200);
}

#[test]
fn mistakes_are_told() {
    for (conf, message) in [
        (
            "limit_conn_zone $uri zone=z:1k;",
            "zone \"zone=z:1k\" is too small",
        ),
        (
            "limit_conn_zone $uri zone=z;",
            "invalid zone size \"zone=z\"",
        ),
        (
            "limit_conn_zone $uri zone=z:x;",
            "invalid zone size \"zone=z:x\"",
        ),
        (
            "limit_conn_zone $uri size=z:1m;",
            "invalid parameter \"size=z:1m\"",
        ),
        (
            "limit_conn_zone $uri zone=z:1m; limit_conn_zone $host zone=z:1m;",
            "limit_conn_zone \"z\" is already bound to key \"$uri\"",
        ),
        (
            "limit_conn none 1;",
            "zero size shared memory zone \"none\"",
        ),
        (
            "limit_conn_zone $uri zone=z:1m; limit_conn z 0;",
            "invalid number of connections \"0\"",
        ),
        (
            "limit_conn_zone $uri zone=z:1m; limit_conn z 65536;",
            "connection limit must be less 65536",
        ),
        (
            "limit_conn_zone $uri zone=z:1m; limit_conn z 1; limit_conn z 2;",
            "\"limit_conn\" directive is duplicate",
        ),
        ("limit_conn_status 399;", "value must be"),
    ] {
        let conf = format!("{conf} server {{ listen 127.0.0.1:%%P0%%; }}");
        let (output, _) = Setup::http(&conf).args(&["-t"]).run();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(message), "{message}: {text}");
    }
}
