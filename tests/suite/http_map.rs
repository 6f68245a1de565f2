//! The map directive.

use crate::common::*;

#[test]
fn exact_wildcard_regex_default() {
    let s = http(
        r#"
        map $arg_k $plain {
            default fallback;
            one 1;
            "two words" 2;
            Upper 3;
            \default escaped;
            ~^re(\d+)$ "re $1";
            ~*^ICASE$ icase;
            ~^named(?<who>.+)$ "named $who";
            var $arg_v;
            mixed "a-${arg_v}-b";
            "" empty;
        }
        map $arg_k $nodefault { one 1; }
        map $arg_k$arg_v $two { onex both; default none; }
        map $arg_host $byname {
            hostnames;
            default other;
            exact.example exact;
            *.example wild;
            .dot.test dot;
            www.* tail;
            ~^re re;
        }
        server {
            listen 127.0.0.1:%%P0%%;
            location /plain { return 200 "$plain"; }
            location /nodefault { return 200 "[$nodefault]"; }
            location /two { return 200 "$two"; }
            location /name { return 200 "$byname"; }
        }
    "#,
        &[],
    );
    for (path, expected) in [
        ("/plain?k=one", "1"),
        ("/plain?k=ONE", "1"),
        ("/plain?k=upper", "3"),
        ("/plain?k=other", "fallback"),
        ("/plain", "empty"),
        ("/plain?k=default", "escaped"),
        ("/plain?k=re12", "re 12"),
        ("/plain?k=icase", "icase"),
        ("/plain?k=namedx", "named x"),
        ("/plain?k=var&v=value", "value"),
        ("/plain?k=mixed&v=value", "a-value-b"),
        ("/nodefault?k=one", "[1]"),
        ("/nodefault", "[]"),
        ("/two?k=one&v=x", "both"),
        ("/two?k=one", "none"),
        ("/name?host=exact.example", "exact"),
        ("/name?host=EXACT.example", "exact"),
        ("/name?host=a.b.example", "wild"),
        ("/name?host=dot.test", "dot"),
        ("/name?host=x.dot.test", "dot"),
        ("/name?host=www.anything", "tail"),
        ("/name?host=www.example", "wild"),
        ("/name?host=rex", "re"),
        ("/name?host=nothing", "other"),
    ] {
        assert_eq!(s.get(path).text(), expected, "{path}");
    }
}

#[test]
fn a_value_is_computed_once_unless_volatile() {
    let s = http(
        r#"
        map $x $cached { default "$x"; }
        map $x $fresh { volatile; default "$x"; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / {
                set $x 1;
                set $a "$cached $fresh";
                set $x 2;
                return 200 "$a $cached $fresh";
            }
        }
    "#,
        &[],
    );
    assert_eq!(s.get("/").text(), "1 1 1 2");
}

#[test]
fn the_websocket_idiom() {
    let b = Backend::echo();
    let s = http(
        r#"
        map $http_upgrade $connection_upgrade { default upgrade; '' close; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / {
                proxy_http_version 1.1;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection $connection_upgrade;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
        }
    "#,
        &[&b],
    );
    s.get("/");
    let req = b.last();
    assert_eq!(
        (req.header("upgrade"), req.header("connection")),
        (None, Some("close"))
    );
    s.get_with("/", "Upgrade: websocket\r\n");
    let req = b.last();
    assert_eq!(
        (req.header("upgrade"), req.header("connection")),
        (Some("websocket"), Some("upgrade"))
    );
}

#[test]
fn an_included_map() {
    let setup = Setup::http(
        r#"
        map $arg_k $v { default no; include map.txt; }
        server { listen 127.0.0.1:%%P0%%; return 200 $v; }
    "#,
    );
    let s = setup.file("map.txt", "one 1;\ntwo 2; # comment\n").start();
    assert_eq!(s.get("/?k=two").text(), "2");
    assert_eq!(s.get("/").text(), "no");
}
