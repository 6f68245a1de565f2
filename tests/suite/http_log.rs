//! access_log and error_log.

use crate::common::*;

#[test]
fn combined() {
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; location / { return 200 four; } }",
        &[],
    );
    s.get_with(
        "/a?b",
        "Referer: http://r/\r\nUser-Agent: agent \"x\"\r\nAuthorization: Basic dTpw\r\n",
    );
    s.get("/plain");
    let lines = s.lines("access.log", 2);
    let (before, after) = lines[0].split_once('[').unwrap();
    let (time, rest) = after.split_once(']').unwrap();
    assert_eq!(before, "127.0.0.1 - u ");
    assert_eq!(time.len(), 26);
    assert_eq!(
        rest,
        " \"GET /a?b HTTP/1.1\" 200 4 \"http://r/\" \"agent \\x22x\\x22\""
    );
    assert!(
        lines[1].ends_with("\"GET /plain HTTP/1.1\" 200 4 \"-\" \"-\""),
        "{}",
        lines[1]
    );
}

#[test]
fn formats_and_escapes() {
    let s = http(
        r#"
        log_format default "$uri|$http_x|$arg_none|" "$status";
        log_format json escape=json '{"uri":"$uri","x":"$http_x","none":"$arg_none"}';
        log_format none escape=none "$uri|$http_x|$arg_none|";
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/default.log default;
            access_log %%DIR%%/json.log json;
            access_log %%DIR%%/none.log none;
            location / { return 200; }
        }
    "#,
        &[],
    );
    // No control character but the tab may stand in a field (RFC 9110, 5.5); in a URI it may.
    let x = "a\"b\\c\td\u{e9}";
    s.get_with("/u%22%0a%01%7f", &format!("X: {x}\r\n"));
    assert_eq!(
        s.lines("default.log", 1),
        ["/u\\x22\\x0A\\x01\\x7F|a\\x22b\\x5Cc\\x09d\\xC3\\xA9|-|200"]
    );
    assert_eq!(
        s.lines("json.log", 1),
        ["{\"uri\":\"/u\\\"\\n\\u0001\u{7f}\",\"x\":\"a\\\"b\\\\c\\td\u{e9}\",\"none\":\"\"}"]
    );
    let none = s.lines("none.log", 2).join("\n");
    assert_eq!(none, format!("/u\"\n\u{1}\u{7f}|{x}||"));
}

#[test]
fn conditions_off_and_inheritance() {
    let s = http(
        r#"
        log_format short "$uri";
        map $status $bad { ~^[45] 1; default 0; }
        map $arg_log $wanted { default ""; yes 1; }
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/all.log short;
            access_log %%DIR%%/bad.log short if=$bad;
            access_log %%DIR%%/wanted.log short if=$wanted;
            location / { return 200; }
            location /off { access_log off; return 200; }
            location /own { access_log %%DIR%%/own.log short; return 200; }
            location /404 { return 404; }
        }
    "#,
        &[],
    );
    for path in ["/a", "/off", "/own", "/404", "/b?log=yes", "/end"] {
        s.get(path);
    }
    assert_eq!(s.lines("all.log", 4), ["/a", "/404", "/b", "/end"]);
    assert_eq!(s.read("bad.log"), "/404\n");
    assert_eq!(s.read("wanted.log"), "/b\n");
    assert_eq!(s.read("own.log"), "/own\n");
}

#[test]
fn buffered() {
    let mut s = http(
        r#"
        log_format short "$uri";
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/size.log short buffer=64;
            access_log %%DIR%%/time.log short buffer=64k flush=300ms;
            access_log %%DIR%%/end.log short buffer=64k;
            location / { return 200; }
        }
    "#,
        &[],
    );
    s.get("/1");
    // Nothing is written before it must be.
    assert_eq!(s.read("end.log"), "");
    assert_eq!(s.lines("time.log", 1), ["/1"]);
    let long = format!("/{}", "x".repeat(58));
    s.get(&long);
    s.get("/3");
    assert!(
        s.lines("size.log", 2)
            .starts_with(&["/1".to_owned(), long.clone()])
    );
    s.stop();
    assert_eq!(s.read("end.log"), format!("/1\n{long}\n/3\n"));
    assert_eq!(s.read("size.log"), s.read("end.log"));
}

#[test]
fn a_path_with_variables() {
    if skip_on_nginx("its workers have dropped root and cannot create files in the prefix") {
        return;
    }
    let s = http(
        r#"
        log_format short "$uri";
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/host-$host.log short;
            location / { return 200; }
        }
    "#,
        &[],
    );
    std::fs::set_permissions(
        &s.prefix,
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    s.get_with("/x", "Host: one\r\n");
    s.get_with("/y", "Host: two\r\n");
    assert_eq!(s.lines("host-one.log", 1), ["/x"]);
    assert_eq!(s.lines("host-two.log", 1), ["/y"]);
}

#[test]
fn bad_requests_are_logged() {
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; location / { return 200; } }",
        &[],
    );
    s.exchange("nonsense\r\n\r\n");
    s.exchange("GET / HTTP/1.1\r\n\r\n");
    let lines = s.lines("access.log", 2);
    assert!(lines[0].contains("\"nonsense\" 400 "), "{}", lines[0]);
    assert!(lines[1].contains("\"GET / HTTP/1.1\" 400 "), "{}", lines[1]);
    s.wait_for_text(
        "error.log",
        "client sent HTTP/1.1 request without \"Host\" header",
    );
}

#[test]
fn the_format_of_error_lines() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            server_name front.test;
            location / { proxy_pass http://127.0.0.1:%%P9%%; }
        }
    "#,
        &[],
    );
    s.get_with("/a?b", "Host: name:1\r\nReferer: http://ref/\r\n");
    s.wait_for_text("error.log", "[error]");
    let log = s.error_log();
    let line = log.lines().find(|line| line.contains("[error]")).unwrap();
    let bytes = line.as_bytes();
    let shape: String = line[..19]
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000/00/00 00:00:00");
    assert_eq!(&bytes[19..28], b" [error] ");
    let (ids, rest) = line[28..].split_once(": ").unwrap();
    let (pid, tid) = ids.split_once('#').unwrap();
    assert!(
        pid.parse::<u32>().is_ok() && tid.parse::<u32>().is_ok(),
        "{ids}"
    );
    let (connection, message) = rest.split_once(' ').unwrap();
    assert!(
        connection
            .strip_prefix('*')
            .is_some_and(|n| n.parse::<u64>().is_ok()),
        "{connection}"
    );
    let expected = format!(
        "connect() failed (111: Connection refused) while connecting to upstream, client: \
         127.0.0.1, \
         server: front.test, request: \"GET /a?b HTTP/1.1\", \
         upstream: \"http://127.0.0.1:{}/a?b\", \
         host: \"name:1\", referrer: \"http://ref/\"",
        s.port(9)
    );
    assert_eq!(message, expected);
}

#[test]
fn the_log_shows_what_the_upstream_was_asked() {
    let mut s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /a/ { proxy_pass http://127.0.0.1:%%P9%%/b/; }
            location /v/ { set $to 127.0.0.1:%%P9%%; proxy_pass http://$to/c?d; }
            location /u/ { proxy_pass http://unix:%%DIR%%/none.sock:/e/; }
        }
    "#,
        &[],
    );
    s.expect_alerts();
    for (path, shown) in [("/a/x?y", "b/x?y"), ("/v/x", "c?d")] {
        assert_eq!(s.get(path).status, 502);
        let upstream = format!("upstream: \"http://127.0.0.1:{}/{shown}\"", s.port(9));
        s.wait_for_text("error.log", &upstream);
    }
    assert_eq!(s.get("/u/x").status, 502);
    let path = s.path("none.sock").display().to_string();
    s.wait_for_text(
        "error.log",
        &format!("upstream: \"http://unix:{path}:/e/x\""),
    );
    // Nobody but the operator can mend this one.
    let message = format!("connect() to unix:{path} failed (2: No such file or directory) while");
    let log = s.error_log();
    let line = log.lines().find(|line| line.contains(&message)).unwrap();
    assert!(line.contains(" [crit] "), "{line}");
}

#[test]
fn level_debug_tells_of_each_request() {
    if skip_on_nginx("it needs --with-debug") {
        return;
    }
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; error_log %%DIR%%/debug.log debug; return 200 x; }",
        &[],
    );
    s.get("/a");
    s.get("/b");
    for line in s.lines("debug.log", 2) {
        assert!(
            line.contains(" [debug] ") && line.contains("finished with status 200, "),
            "{line}"
        );
    }
    assert!(s.read("debug.log").contains("request: \"GET /b HTTP/1.1\""));
}

#[test]
fn error_log_levels_and_places() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            error_log %%DIR%%/error-level.log error;
            error_log %%DIR%%/second.log error;
            location / { proxy_pass http://127.0.0.1:%%P9%%; }
            location /crit { error_log %%DIR%%/crit.log crit; proxy_pass http://127.0.0.1:%%P9%%; }
            location /info {
                error_log %%DIR%%/info.log info;
                client_max_body_size 1;
                return 200 x;
            }
        }
    "#,
        &[],
    );
    s.get("/");
    s.get("/crit");
    for log in ["error-level.log", "second.log"] {
        s.wait_for_text(log, "connect() failed");
        assert_eq!(s.read(log).matches("connect() failed").count(), 1, "{log}");
    }
    assert!(s.path("crit.log").exists());
    assert_eq!(s.read("crit.log"), "");
    assert!(!s.error_log().contains("connect() failed"));
}

#[test]
fn error_log_to_stderr_and_syslog() {
    let syslog = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    syslog.set_read_timeout(Some(PATIENCE)).unwrap();
    let conf = r#"
        error_log stderr error;
        error_log syslog:server=%%SYSLOG%%,facility=local3,tag=gateway,severity=info error;
        events {}
        http { %%HTTP%%
            log_format short "$uri";
            server {
                listen 127.0.0.1:%%P0%%;
                access_log syslog:server=%%SYSLOG%%,facility=local7,tag=access,severity=notice
                    short;
                location / { return 200; }
                location /bad { access_log off; proxy_pass http://127.0.0.1:%%P9%%; }
            }
        }
    "#;
    let s = Setup::full(conf).value("SYSLOG", syslog.local_addr().unwrap());
    let s = s.globals("daemon off; pid nginx.pid;").start();
    let mut packet = [0u8; 2048];
    let mut next = || {
        let n = syslog.recv(&mut packet).unwrap();
        String::from_utf8_lossy(&packet[..n]).into_owned()
    };
    s.get("/path");
    let line = next();
    // local7 is 23, notice 5.
    assert!(line.starts_with("<189>"), "{line}");
    assert!(line.ends_with(" access: /path"), "{line}");
    s.get("/bad");
    let line = next();
    // local3 is 19; the severity of a message is its own level.
    assert!(line.starts_with("<155>"), "{line}");
    assert!(
        line.contains(" gateway: ") && line.contains("connect() failed"),
        "{line}"
    );
    s.wait_for_text("stderr.log", "connect() failed");
}
