//! Integration tests: the real binary, a small configuration, bytes in, exact bytes out.
//!
//! One binary for all areas keeps linking short. See `common` for how to run them against an nginx.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

mod clients;
mod config_errors;
mod config_ssl;
mod demo;
mod grpc;
mod http2;
mod http2_upstream;
mod http_bodies;
mod http_broken_backends;
mod http_buffering;
mod http_connection;
mod http_core;
mod http_gzip;
mod http_headers;
mod http_limit_conn;
mod http_location;
mod http_log;
mod http_map;
mod http_proxy;
mod http_proxy_failure;
mod http_proxy_response;
mod http_proxy_retry;
mod http_realip;
mod http_resolver;
mod http_rewrite;
mod http_smuggling;
mod http_smuggling_answers;
mod http_static;
mod http_trailers;
mod http_upstream;
mod http_upstream_keepalive;
mod http_variables;
mod http_websocket;
mod listen;
mod process;
mod readme;
mod reference;
mod ringway_only;
mod stream_clients;
mod stream_integrity;
mod stream_listen;
mod stream_modules;
mod stream_pass;
mod stream_process;
mod stream_proxy;
mod stream_proxy_protocol;
mod stream_session;
mod stream_ssl_preread;
mod stream_tls;
mod stream_tls_upstream;
mod stream_udp;
mod stream_upstream;
mod stream_variables;
mod tidy;
mod tls_client_certificate;
mod tls_ocsp;
mod tls_server;
mod tls_upstream;
mod tls_upstream_bodies;
mod tls_variables;
