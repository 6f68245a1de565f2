//! if, set, return, rewrite, break.

use crate::common::*;

#[test]
fn rewrite_flags() {
    let b = Backend::http(|req| ok(&req.target));
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { return 200 "root $uri $args"; }
            location /last/ { rewrite ^/last/(.*)$ /new/$1 last; return 200 not-reached; }
            location /break/ {
                rewrite ^/break/(.*)$ /new/$1 break;
                rewrite ^ /never last;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /none/ {
                rewrite ^/none/(.*)$ /step/$1;
                rewrite ^/step/(.*)$ /done/$1;
                return 200 not-reached;
            }
            location /noneonly/ { rewrite ^/noneonly/(.*)$ /new/$1; }
            location /redirect { rewrite ^ /to redirect; }
            location /permanent { rewrite ^ /to permanent; }
            location /http { rewrite ^/http(.*)$ http://other$1; return 200 not-reached; }
            location /https { rewrite ^/https(.*)$ https://other$1?x=y permanent; }
            location /new/ { return 200 "new $uri $args"; }
            location /args { rewrite ^ /new/a?x=1 last; }
            location /noargs { rewrite ^ /new/a?x=1? last; }
            location /dropargs { rewrite ^ /new/a? last; }
            location /nomatch { rewrite ^/x /y last; return 200 stays; }
            location /icase { rewrite (?i)^/ICASE/(.*) /new/$1 last; return 200 no; }
            location /brace { rewrite "^/brace/(\d{2})$" /new/$1 last; return 200 no; }
        }
    "#,
        &[&b],
    );
    for (path, expected) in [
        ("/last/x?a=b", "new /new/x a=b"),
        ("/last/a%20b", "new /new/a b "),
        ("/break/x", "/new/x"),
        ("/none/x", "not-reached"),
        ("/noneonly/x", "new /new/x "),
        ("/args?a=b", "new /new/a x=1&a=b"),
        ("/args", "new /new/a x=1"),
        ("/noargs?a=b", "new /new/a x=1"),
        ("/dropargs?a=b", "new /new/a "),
        ("/nomatch", "stays"),
        ("/icase/x", "new /new/x "),
        ("/brace/12", "new /new/12 "),
        ("/brace/123", "no"),
    ] {
        assert_eq!(s.get(path).text(), expected, "{path}");
    }
    let own = format!("http://localhost:{}/to", s.port(0));
    for (path, status, to) in [
        ("/redirect", 302, own.clone()),
        ("/redirect?a=b", 302, format!("{own}?a=b")),
        ("/permanent", 301, own),
        ("/http/x", 302, "http://other/x".to_owned()),
        ("/http/x?a", 302, "http://other/x?a".to_owned()),
        ("/https/x?a=b", 301, "https://other/x?x=y&a=b".to_owned()),
        ("/http/a%20b", 302, "http://other/a%20b".to_owned()),
    ] {
        let r = s.get(path);
        assert_eq!(
            (r.status, r.header("location")),
            (status, Some(to.as_str())),
            "{path}"
        );
    }
}

#[test]
fn rewrite_of_the_server_comes_first() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            set $where server;
            rewrite ^/old/(.*)$ /mid/$1;
            rewrite ^/mid/(.*)$ /new/$1 last;
            rewrite ^/new/(.*)$ /wrong/$1;
            if ($arg_stop) { return 403; }
            location / { return 200 "root $where"; }
            location /new/ { set $where "$where location"; return 200 "$uri $where"; }
        }
    "#,
        &[],
    );
    assert_eq!(s.get("/old/x").text(), "/new/x server location");
    assert_eq!(s.get("/x").text(), "root server");
    assert_eq!(s.get("/x?stop=1").status, 403);
}

#[test]
fn if_conditions() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /set { if ($arg_a) { return 200 yes; } return 200 no; }
            location /eq { if ($arg_a = x) { return 200 yes; } return 200 no; }
            location /ne { if ($arg_a != x) { return 200 yes; } return 200 no; }
            location /re { if ($arg_a ~ ^a(b+)c$) { return 200 "yes $1"; } return 200 no; }
            location /rei { if ($arg_a ~* ABC) { return 200 yes; } return 200 no; }
            location /notre { if ($arg_a !~ abc) { return 200 yes; } return 200 no; }
            location /notrei { if ($arg_a !~* ABC) { return 200 yes; } return 200 no; }
            location /method { if ($request_method = POST) { return 200 yes; } return 200 no; }
            location /quoted { if ($arg_a = "") { return 200 yes; } return 200 no; }
            location /named {
                if ($arg_a ~ (?<name>\d+)) { return 200 "yes $name"; }
                return 200 "no $name";
            }
            location /both {
                set $flags "";
                if ($arg_a) { set $flags "a"; }
                if ($arg_b) { set $flags "${flags}b"; }
                return 200 "flags=$flags";
            }
            location /break { if ($arg_a) { break; } return 200 not-broken; }
            location /file {
                if (-f /etc/hostname-does-not-exist) { return 200 yes; }
                return 200 no;
            }
            location /dir { if (-d /tmp) { return 200 yes; } return 200 no; }
            location /nodir { if (!-d /tmp) { return 200 yes; } return 200 no; }
            location /exists { if (-e /etc/passwd) { return 200 yes; } return 200 no; }
            location /exec { if (-x /bin/sh) { return 200 yes; } return 200 no; }
        }
    "#,
        &[],
    );
    for (path, expected) in [
        ("/set?a=1", "yes"),
        ("/set?a=0", "no"),
        ("/set?a=00", "yes"),
        ("/set", "no"),
        ("/set?a=", "no"),
        ("/eq?a=x", "yes"),
        ("/eq?a=X", "no"),
        ("/ne?a=y", "yes"),
        ("/ne", "yes"),
        ("/re?a=abbbc", "yes bbb"),
        ("/re?a=xabc", "no"),
        ("/rei?a=xaBcx", "yes"),
        ("/notre?a=abc", "no"),
        ("/notre", "yes"),
        ("/notrei?a=aBc", "no"),
        ("/method", "no"),
        ("/quoted", "yes"),
        ("/named?a=x42", "yes 42"),
        ("/named?a=x", "no "),
        ("/both", "flags="),
        ("/both?b=1", "flags=b"),
        ("/both?a=1&b=1", "flags=ab"),
        ("/file", "no"),
        ("/dir", "yes"),
        ("/nodir", "no"),
        ("/exists", "yes"),
        ("/exec", "yes"),
    ] {
        assert_eq!(s.get(path).text(), expected, "{path}");
    }
    let r = s.request("POST /method HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(r.text(), "yes");
}

#[test]
fn an_if_is_a_location_of_its_own() {
    let b = Backend::echo();
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / {
                proxy_set_header X-Outer 1;
                add_header X-From outer;
                proxy_pass http://127.0.0.1:%%B0%%/outer/;
                if ($arg_a) { add_header X-From if; }
                if ($arg_b) { proxy_pass http://127.0.0.1:%%B0%%; }
            }
        }
    "#,
        &[&b],
    );
    let r = s.get("/x");
    assert!(r.text().starts_with("GET /outer/x "));
    assert_eq!(r.header("x-from"), Some("outer"));
    let r = s.get("/x?a=1");
    assert!(r.text().starts_with("GET /outer/x?a=1 "), "{}", r.text());
    assert_eq!(r.header("x-from"), Some("if"));
    let r = s.get("/x?b=1");
    assert!(r.text().starts_with("GET /x?b=1 "));
    assert_eq!(
        (r.header("x-from"), b.last().header("x-outer")),
        (Some("outer"), Some("1"))
    );
}

#[test]
fn captures() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location ~ ^/loc/(\w+)/(\w+)$ {
                set $first $1;
                if ($arg_x ~ ^(.)(.)$) { set $second "$2$1"; }
                return 200 "$first $second [$1]";
            }
            location ~ ^/opt/(a)?(b)?$ { return 200 "[$1][$2][$3]"; }
            location /rw/ { rewrite ^/rw/(?<who>\w+)/(.*)$ /out/$who/$2 last; }
            location /out/ { return 200 "$uri $who"; }
            location /swap {
                rewrite ^/swap/(\w)(\w)(\w)(\w)(\w)(\w)(\w)(\w)(\w)$ /nine/$9$8$7$6$5$4$3$2$1 last;
            }
            location /nine { return 200 $uri; }
            location /esc { rewrite ^/esc/(.*)$ /q?v=$1 last; }
            location /q { return 200 "$args"; }
        }
    "#,
        &[],
    );
    // A regex that does not match leaves no captures behind.
    assert_eq!(s.get("/loc/a/b").text(), "a  []");
    assert_eq!(s.get("/loc/a/b?x=yz").text(), "a zy [y]");
    assert_eq!(s.get("/opt/b").text(), "[][b][]");
    assert_eq!(s.get("/rw/me/x/y").text(), "/out/me/x/y me");
    assert_eq!(s.get("/swap/123456789").text(), "/nine/987654321");
    assert_eq!(s.get("/esc/a%26b%20c").text(), "v=a%26b%20c");
}

#[test]
fn a_cycle_ends_with_500() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /loop { rewrite ^ /loop last; }
            location /in { error_page 404 /in2; return 404; }
            location /count { rewrite ^/count(x*)$ /countx$1 last; }
        }
    "#,
        &[],
    );
    assert_eq!(s.get("/loop").status, 500);
    s.wait_for_text(
        "error.log",
        "rewrite or internal redirection cycle while processing \"/loop\", client: 127.0.0.1",
    );
    assert_eq!(s.get("/count").status, 500);
    s.wait_for_text(
        "error.log",
        &format!("processing \"/count{}\"", "x".repeat(11)),
    );
}

#[test]
fn set_and_uninitialized_variables() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /a { set $x "a${arg_v}b"; set $y $x$x; return 200 $y; }
            location /b { return 200 "[$x]"; }
            location /own { set $args new=1; return 200 "$args $query_string $arg_new"; }
            location /w { rewrite_log on; return 200 "$never"; set $never 1; }
        }
    "#,
        &[],
    );
    assert_eq!(s.get("/a?v=1").text(), "a1ba1b");
    assert_eq!(s.get("/b").text(), "[]");
    s.wait_for_text("error.log", "using uninitialized \"x\" variable");
    assert_eq!(s.get("/own?old=1").text(), "new=1 new=1 1");
}

#[test]
fn captures_in_values_are_escaped_where_the_path_was() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location ~ ^/set/(.*)$ { set $x $1; return 200 "$x [$1]"; }
            location ~ ^/after/(.*)$ {
                set $before $1;
                rewrite ^/after/(.*)$ /r/$1?v=$1;
                set $x $1;
                return 200 "$before [$x] $uri $args";
            }
            location ~ ^/if/(.*)$ { if ($arg_q ~ (.*)) { set $x $1; } return 200 "$x"; }
            location /named { rewrite ^/named/(?<rest>.*)$ /out/$rest?n=$rest last; }
            location /out { return 200 "$uri $args"; }
        }
    "#,
        &[],
    );
    for (path, expected) in [
        ("/set/a%20b+c%26", "a%20b%2Bc%26 [a b+c&]"),
        ("/set/a+b", "a%2Bb [a+b]"),
        ("/set/ab&", "ab& [ab&]"),
        ("/after/a%20b", "a%20b [a b] /r/a b v=a%20b"),
        ("/if/x%20y?q=a%20", "a%2520"),
        ("/if/xy?q=a%20", "a%20"),
        ("/named/a%26", "/out/a& n=a&"),
    ] {
        assert_eq!(s.get(path).text(), expected, "{path}");
    }
}

#[test]
fn question_marks_and_escapes_in_replacements() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            absolute_redirect off;
            location /two { rewrite ^ /a?b?c; return 200 "$uri $args"; }
            location /redirect { rewrite ^ /a?b?c redirect; }
            location /drop { rewrite ^ /a?b?c? redirect; }
            location /tidy { rewrite ^/tidy/(.*)$ "/%41%20%zz%4x%7f%3F%25$1" redirect; }
            location /moved { rewrite ^/moved/(.*)$ /x/$1?a=$1 permanent; }
            location /zero { rewrite ^/zero(.*)$ $1 last; }
        }
    "#,
        &[],
    );
    assert_eq!(s.get("/two?z").text(), "/a b?c&z");
    for (path, expected) in [
        ("/redirect?z", "/a?b?c&z"),
        ("/drop?z", "/a?b?c"),
        ("/tidy/x%3fy", "/A%20zz%7f?%25x%3Fy"),
        ("/moved/a%20b%26?c=d", "/x/a%20b&?a=a%20b%26&c=d"),
    ] {
        assert_eq!(s.get(path).header("location"), Some(expected), "{path}");
    }
    assert_eq!(s.get("/zero").status, 500);
    s.wait_for_text(
        "error.log",
        "the rewritten URI has a zero length, client: 127.0.0.1",
    );
}

#[test]
fn break_keeps_the_location() {
    let b = Backend::http(|req| ok(&req.target));
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /a { rewrite ^ /b; break; proxy_pass http://127.0.0.1:%%B0%%; }
            location /b { return 200 elsewhere; }
            location /if {
                if ($arg_x) { break; }
                if ($arg_y) { return 200 y; }
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /inner { internal; return 200 inner; }
            location /toinner { rewrite ^ /inner last; }
        }
    "#,
        &[&b],
    );
    assert_eq!(s.get("/a").text(), "/b");
    assert_eq!(s.get("/if?x=1&y=1").text(), "/if?x=1&y=1");
    assert_eq!(s.get("/if?y=1").text(), "y");
    assert_eq!(s.get("/inner").status, 404);
    assert_eq!(s.get("/toinner").text(), "inner");
}

#[test]
fn set_of_a_name_that_is_a_family_s() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /set { set $arg_a mine; set $http_x mine; return 200 "$arg_a $http_x"; }
            location /get { return 200 "$arg_a $http_x"; }
            location /rate { set $limit_rate nonsense; return 200 $limit_rate; }
        }
    "#,
        &[],
    );
    assert_eq!(s.get_with("/set?a=1", "X: 2\r\n").text(), "mine mine");
    assert_eq!(s.get_with("/get?a=1", "X: 2\r\n").text(), "1 2");
    assert_eq!(s.get("/rate").text(), "0");
}

#[test]
fn rewrite_log_tells_what_was_done() {
    let s = Setup::http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            error_log %%DIR%%/own.log notice;
            rewrite_log on;
            location / {
                rewrite ^/never /x;
                if ($arg_a ~ ^v) { rewrite ^/(.*)$ /new/$1?b=c; }
                return 200 done;
            }
        }
    "#,
    )
    .start();
    assert_eq!(s.get("/u?a=v").text(), "done");
    for text in [
        "\"^/never\" does not match \"/u\", client: 127.0.0.1",
        "\"^v\" matches \"v\", client",
        "\"^/(.*)$\" matches \"/u\", client",
        "rewritten data: \"/new/u\", args: \"b=c&a=v\", client",
    ] {
        s.wait_for_text("own.log", text);
    }
}

#[test]
fn the_text_of_a_return_may_show_its_status() {
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; location / { return 202 \"$status\"; } }",
        &[],
    );
    assert_eq!(s.get("/").text(), "202");
}
