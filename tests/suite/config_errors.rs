//! The first line of a configuration error, as nginx words it.

use crate::common::*;

/// The first line that `-t` prints for a whole configuration, with the path of the file as FILE.
fn first_line(conf: &str) -> String {
    let (output, s) = Setup::full(conf).globals("").args(&["-t"]).run();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{conf}: {text}");
    let line = text.lines().next().unwrap_or_default().to_owned();
    line.replace(&s.path("nginx.conf").display().to_string(), "FILE")
        .replace(&s.prefix.display().to_string(), "DIR")
}

/// Collects what is worded differently and reports all of it at the end of a test.
#[derive(Default)]
struct Checks(Vec<String>);

impl Checks {
    /// `conf` fails with `[emerg] message`.
    fn fails(&mut self, conf: &str, message: &str) {
        let (expected, got) = (format!("{}: [emerg] {message}", prog()), first_line(conf));
        if got != expected {
            self.0
                .push(format!("{conf}\n  expected {expected}\n       got {got}"));
        }
    }

    /// The same where nginx does not say which line it means.
    fn fails_somewhere(&mut self, conf: &str, message: &str) {
        let place = if is_nginx() { "" } else { " in FILE:1" };
        self.http_fails(conf, &format!("{message}{place}"));
    }

    /// The same for the content of a server block on line 1.
    fn server_fails(&mut self, conf: &str, message: &str) {
        self.fails(
            &format!("events {{}} http {{ server {{ {conf} }} }}"),
            message,
        );
    }

    /// The same for the content of an http block on line 1.
    fn http_fails(&mut self, conf: &str, message: &str) {
        self.fails(&format!("events {{}} http {{ {conf} }}"), message);
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(
                self.0.is_empty(),
                "{} differ:\n{}",
                self.0.len(),
                self.0.join("\n")
            );
        }
    }
}

#[test]
fn syntax() {
    let mut c = Checks::default();
    c.fails(
        "foo",
        "unexpected end of file, expecting \";\" or \"}\" in FILE:1",
    );
    c.fails(
        "events {",
        "unexpected end of file, expecting \"}\" in FILE:1",
    );
    c.fails("events {} }", "unexpected \"}\" in FILE:1");
    c.fails("events {} ;", "unexpected \";\" in FILE:1");
    c.fails("{ }", "unexpected \"{\" in FILE:1");
    c.fails(
        "events {}\n\nworker_processes 1 }",
        "unexpected \"}\" in FILE:3",
    );
    c.fails("pid \"a\"b;", "unexpected \"b\" in FILE:1");
    c.fails(
        "events;",
        "directive \"events\" has no opening \"{\" in FILE:1",
    );
    c.fails(
        "events {} pid x {}",
        "directive \"pid\" is not terminated by \";\" in FILE:1",
    );
    c.fails(
        "events {} pid \"abc;\n",
        "unexpected end of file, expecting \";\" or \"}\" in FILE:2",
    );
}

#[test]
fn names_places_and_numbers() {
    let mut c = Checks::default();
    c.fails("nonsense;", "unknown directive \"nonsense\" in FILE:1");
    c.fails(
        "events {}\nhttp {\n  server {\n    lisen 80;\n  }\n}",
        "unknown directive \"lisen\" in FILE:4",
    );
    c.fails(
        "listen 80;",
        "\"listen\" directive is not allowed here in FILE:1",
    );
    c.http_fails(
        "proxy_pass http://a;",
        "\"proxy_pass\" directive is not allowed here in FILE:1",
    );
    c.server_fails(
        "worker_processes 1;",
        "\"worker_processes\" directive is not allowed here in FILE:1",
    );
    c.fails(
        "worker_processes;",
        "invalid number of arguments in \"worker_processes\" directive in FILE:1",
    );
    c.server_fails(
        "listen;",
        "invalid number of arguments in \"listen\" directive in FILE:1",
    );
    c.server_fails(
        "return;",
        "invalid number of arguments in \"return\" directive in FILE:1",
    );
    c.fails("pid a; pid b;", "\"pid\" directive is duplicate in FILE:1");
    c.fails(
        "events {} events {}",
        "\"events\" directive is duplicate in FILE:1",
    );
    c.http_fails(
        "keepalive_timeout 1; keepalive_timeout 2;",
        "\"keepalive_timeout\" directive is duplicate in FILE:1",
    );
    c.server_fails(
        "location / {} location / {}",
        "duplicate location \"/\" in FILE:1",
    );
}

#[test]
fn values() {
    let mut c = Checks::default();
    c.http_fails(
        "sendfile maybe;",
        "invalid value \"maybe\" in \"sendfile\" directive, it must be \"on\" or \"off\" in FILE:1",
    );
    c.http_fails(
        "client_max_body_size 1x;",
        "\"client_max_body_size\" directive invalid value in FILE:1",
    );
    c.http_fails(
        "client_body_timeout 1x;",
        "\"client_body_timeout\" directive invalid value in FILE:1",
    );
    c.fails(
        "worker_processes many;",
        "\"worker_processes\" directive invalid value in FILE:1",
    );
    c.fails(
        "events { worker_connections x; }",
        "invalid number \"x\" in FILE:1",
    );
    c.http_fails(
        "gzip_comp_level 10;",
        "value must be between 1 and 9 in FILE:1",
    );
    c.server_fails(
        "listen 99999;",
        "invalid port in \"99999\" of the \"listen\" directive in FILE:1",
    );
    c.server_fails(
        "listen 80 nonsense;",
        "invalid parameter \"nonsense\" in FILE:1",
    );
    c.server_fails(
        "listen 80 backlog=x;",
        "invalid backlog \"backlog=x\" in FILE:1",
    );
    c.server_fails(
        "listen 80 rcvbuf=x;",
        "invalid rcvbuf \"rcvbuf=x\" in FILE:1",
    );
    c.server_fails(
        "server_name *a.b;",
        "server name \"*a.b\" is invalid in FILE:1",
    );
    c.server_fails("server_name .;", "server name \".\" is invalid in FILE:1");
    c.http_fails("keepalive_disable foo;", "invalid value \"foo\" in FILE:1");
    c.server_fails(
        "limit_rate x;",
        "\"limit_rate\" directive invalid value in FILE:1",
    );
    c.server_fails("return abc;", "invalid return code \"abc\" in FILE:1");
    c.server_fails(
        "error_page 200 /x;",
        "value \"200\" must be between 300 and 599 in FILE:1",
    );
}

#[test]
fn references() {
    let mut c = Checks::default();
    c.fails_somewhere(
        "server { return 200 $nothing; }",
        "unknown \"nothing\" variable",
    );
    c.fails_somewhere(
        "map $a $b { default 1; } server { return 200 $a; }",
        "unknown \"a\" variable",
    );
    c.server_fails("set host 1;", "invalid variable name \"host\" in FILE:1");
    c.server_fails("set $host 1;", "the duplicate \"host\" variable in FILE:1");
    c.http_fails(
        "log_format a a; log_format a b;",
        "duplicate \"log_format\" name \"a\" in FILE:1",
    );
    c.http_fails(
        "access_log a nothing;",
        "unknown log format \"nothing\" in FILE:1",
    );
    c.fails(
        "include nothing.conf;",
        "open() \"DIR/nothing.conf\" failed (2: No such file or directory) in FILE:1",
    );
    c.fails(
        "error_log x nonsense;",
        "invalid log level \"nonsense\" in FILE:1",
    );
    c.fails(
        "user nobody-here-by-this-name;",
        "getpwnam(\"nobody-here-by-this-name\") failed in FILE:1",
    );
}

#[test]
fn locations_and_proxy() {
    let mut c = Checks::default();
    c.server_fails(
        "location / { proxy_pass app; }",
        "invalid URL prefix in FILE:1",
    );
    c.server_fails(
        "location ~ x { proxy_pass http://127.0.0.1/uri; }",
        "\"proxy_pass\" cannot \
     have URI part in location given by regular expression, or inside named location, or inside \
     \"if\" statement, or inside \"limit_except\" block in FILE:1",
    );
    c.server_fails(
        "location / { proxy_pass http://name.invalid; }",
        "host not found in upstream \"name.invalid\" in FILE:1",
    );
    for (written, message) in [
        ("proxy_bind 1;", "invalid address \"1\" in FILE:1"),
        ("proxy_bind off x;", "invalid address \"off\" in FILE:1"),
        (
            "proxy_bind 127.0.0.1 y;",
            "invalid parameter \"y\" in FILE:1",
        ),
    ] {
        c.server_fails(written, message);
    }
    c.server_fails(
        "location = /a/ { location /b/ {} }",
        "location \"/b/\" cannot be inside the exact location \"/a/\" in FILE:1",
    );
    c.server_fails(
        "location /a/ { location /b/ {} }",
        "location \"/b/\" is outside location \"/a/\" in FILE:1",
    );
    c.server_fails(
        "location / { location @x {} }",
        "named location \"@x\" can be on the server level only in FILE:1",
    );
    c.server_fails(
        "location /a /b {}",
        "invalid location modifier \"/a\" in FILE:1",
    );
    c.server_fails(
        "if ($host) { listen 80; }",
        "\"listen\" directive is not allowed here in FILE:1",
    );
    c.server_fails("if (host) { }", "invalid condition \"host\" in FILE:1");
    c.server_fails(
        "rewrite ^ /x nonsense;",
        "invalid parameter \"nonsense\" in FILE:1",
    );
}

#[test]
fn upstreams() {
    let mut c = Checks::default();
    c.http_fails("upstream u { }", "no servers are inside upstream in FILE:1");
    c.http_fails(
        "upstream u { server 127.0.0.1; } upstream u { server 127.0.0.1; }",
        "duplicate upstream \"u\" in FILE:1",
    );
    c.http_fails(
        "upstream u { server 127.0.0.1 weight=0; }",
        "invalid parameter \"weight=0\" in FILE:1",
    );
    c.http_fails(
        "upstream u { server 127.0.0.1 nonsense; }",
        "invalid parameter \"nonsense\" in FILE:1",
    );
    c.http_fails(
        "upstream u { server name.invalid; }",
        "host not found in upstream \"name.invalid\" in FILE:1",
    );
    c.http_fails(
        "upstream u { ip_hash; server 127.0.0.1 backup; }",
        "balancing method does not support parameter \"backup\" in FILE:1",
    );
    c.http_fails(
        "upstream u { server 127.0.0.1 backup; }",
        "no servers in upstream \"u\" in FILE:1",
    );
    c.http_fails(
        "upstream u { server 127.0.0.1; }
        server { location / { proxy_pass http://u:80; } }",
        "upstream \"u\" may not have port 80 in FILE:2",
    );
    c.http_fails(
        "upstream u { zone z 64k; server 127.0.0.1; } upstream v { zone z 1m; server 127.0.0.1; }",
        "the size 1048576 of shared memory zone \"z\" conflicts with already declared size 65536 \
         in FILE:1",
    );
}

#[test]
fn servers() {
    let mut c = Checks::default();
    let two = "server { listen 127.0.0.1:8080 default_server; } server { listen 127.0.0.1:8080 \
     default_server; }";
    c.http_fails(
        two,
        "a duplicate default server for 127.0.0.1:8080 in FILE:1",
    );
    c.server_fails(
        "listen 127.0.0.1:8080; listen 127.0.0.1:8080;",
        "a duplicate listen 127.0.0.1:8080 in FILE:1",
    );
}

#[test]
fn regexes_that_do_not_compile() {
    // What is wrong is said in the engine's own words.
    for conf in [
        "server_name ~(;",
        "location ~ ( {}",
        "rewrite ( /x;",
        "if ($uri ~ \"(\") {}",
    ] {
        let line = first_line(&format!("events {{}} http {{ server {{ {conf} }} }}"));
        assert!(line.starts_with(&format!("{}: [emerg] ", prog())), "{line}");
        assert!(
            line.contains("in \"(\"") && line.ends_with(" in FILE:1"),
            "{line}"
        );
    }
}

#[test]
fn no_events_section() {
    let (output, _s) = Setup::full("worker_processes 1;").args(&["-t"]).run();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("[emerg] no \"events\" section in configuration\n"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_error_in_an_included_file_names_that_file() {
    let (output, s) = Setup::http("include inc.conf;")
        .file("inc.conf", "# one\n# two\nnonsense on;\n")
        .args(&["-t"])
        .run();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = format!(
        "unknown directive \"nonsense\" in {}:3",
        s.path("inc.conf").display()
    );
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn quoting_and_odd_layouts_are_understood() {
    let s = http(
        "\u{20}server{listen 127.0.0.1:%%P0%%;\r\n\
         location /a{return 200 \"a \\\"quoted\\\" 'text' \\\\ # no comment\";}# comment\r\n\
         location '/b c' { return 200 'single \"double\" $uri'; }\n\
         location /d { return 200 un\\ quoted; }\n\
         location /e { return 200 \"tab\\tnl\\n\"; }\n\
         location /f { return 200 \"${uri}x${arg_a}\"; }\n\
         location /g { return 200 \"multi\nline\"; }\n\
         location /h { return\t200\n\n\"words\"\n; }\n\
         location /i { return 200 a#b; }\n\
         }",
        &[],
    );
    for (path, text) in [
        ("/a", "a \"quoted\" 'text' \\ # no comment"),
        ("/b%20c", "single \"double\" /b c"),
        ("/d", "un\\ quoted"),
        ("/e", "tab\tnl\n"),
        ("/f?a=1", "/fx1"),
        ("/g", "multi\nline"),
        ("/h", "words"),
        ("/i", "a#b"),
    ] {
        assert_eq!(s.get(path).text(), text, "{path}");
    }
}

#[test]
fn includes_are_relative_to_the_main_file_and_may_be_globs() {
    let mut setup = Setup::http("include conf.d/*.conf; include nothing/*.conf;");
    let port = setup.reserve(0);
    let s = setup
        .file(
            "conf.d/b.conf",
            format!("server {{ listen 127.0.0.1:{port}; include sub/loc; }}"),
        )
        .file("sub/loc", "location / { return 200 included; }")
        .file("conf.d/.hidden.conf", "nonsense;")
        .start();
    assert_eq!(s.get("/").text(), "included");
}

#[test]
fn buffers_that_do_not_fit_together() {
    let least = "equal to or greater than the maximum of the value of \"proxy_buffer_size\" and \
                 one of the \"proxy_buffers\" in FILE:1";
    let minus_one = "\"proxy_busy_buffers_size\" must be less than the size of all \
                     \"proxy_buffers\" minus one buffer in FILE:1";
    let mut c = Checks::default();
    for (written, message) in [
        (
            "proxy_busy_buffers_size 2k;",
            format!("\"proxy_busy_buffers_size\" must be {least}"),
        ),
        ("proxy_busy_buffers_size 32k;", minus_one.into()),
        ("proxy_buffer_size 16k;", minus_one.into()),
        ("proxy_buffers 2 64k;", minus_one.into()),
        (
            "proxy_temp_file_write_size 1k;",
            format!("\"proxy_temp_file_write_size\" must be {least}"),
        ),
        (
            "proxy_max_temp_file_size 1k;",
            format!(
                "\"proxy_max_temp_file_size\" must be equal to zero to disable temporary files \
                 usage or must be {least}"
            ),
        ),
    ] {
        c.server_fails(
            &format!("location / {{ {written} proxy_pass http://127.0.0.1:1; }}"),
            &message,
        );
    }
}
