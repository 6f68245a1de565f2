//! Status codes: nginx's reason phrases, its own codes, and its built-in pages.

/// The reason phrase nginx sends with `code`; empty if it knows none.
pub fn reason(code: u16) -> &'static str {
    match code {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 | 494..=497 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Time-out",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Large",
        415 => "Unsupported Media Type",
        416 => "Requested Range Not Satisfiable",
        421 => "Misdirected Request",
        425 => "Too Early",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Temporarily Unavailable",
        504 => "Gateway Time-out",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

/// The code that goes on the wire for `code`: nginx's own 494 to 497 are a 400 to the client.
///
/// (444 and 499 never go out: the connection closes.)
pub fn on_the_wire(code: u16) -> u16 {
    match code {
        494..=497 => 400,
        498 => 404,
        _ => code,
    }
}

/// Whether the connection must close after an answer of our own with this code: what follows in
/// it cannot be told from a rest of the bad request.
pub fn closes_connection(code: u16) -> bool {
    matches!(code, 400 | 413 | 414 | 494..=497 | 500 | 501)
}

/// How a built-in page is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageStyle {
    /// `server_tokens`: name the version.
    pub tokens: bool,
    /// `msie_padding` and a browser (MSIE, Chrome) that shows its own page for a short answer.
    pub padding: bool,
}

/// Appends the built-in page for `code`, nginx's own codes included. False, and nothing appended,
/// if there is none.
pub fn write_page(code: u16, style: PageStyle, out: &mut Vec<u8>) -> bool {
    let Some((title, heading, detail)) = page_texts(code) else {
        return false;
    };
    for part in [
        "<html>\r\n<head><title>",
        title,
        "</title></head>\r\n<body>\r\n<center><h1>",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(heading.as_bytes());
    out.extend_from_slice(b"</h1></center>\r\n");
    if !detail.is_empty() {
        for part in ["<center>", detail, "</center>\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(b"<hr><center>");
    out.extend_from_slice(
        if style.tokens {
            NAME_AND_VERSION
        } else {
            "ringway"
        }
        .as_bytes(),
    );
    out.extend_from_slice(b"</center>\r\n</body>\r\n</html>\r\n");
    if style.padding && code >= 400 {
        for _ in 0..PADDING_LINES {
            out.extend_from_slice(PADDING_LINE);
        }
    }
    true
}

const NAME_AND_VERSION: &str = concat!("ringway/", env!("CARGO_PKG_VERSION"));
const PADDING_LINES: usize = 6;
const PADDING_LINE: &[u8] =
    b"<!-- a padding to disable MSIE and Chrome friendly error page -->\r\n";

/// Title, heading and, for nginx's own codes, the line below.
fn page_texts(code: u16) -> Option<(&'static str, &'static str, &'static str)> {
    macro_rules! pages {
        ($($code:literal $text:literal)*) => {
            match code {
                $($code => {
                    const TEXT: &str = concat!($code, " ", $text);
                    (TEXT, TEXT, "")
                })*
                494 => (
                    "400 Request Header Or Cookie Too Large",
                    "400 Bad Request",
                    "Request Header Or Cookie Too Large",
                ),
                495 => (
                    "400 The SSL certificate error",
                    "400 Bad Request",
                    "The SSL certificate error",
                ),
                496 => (
                    "400 No required SSL certificate was sent",
                    "400 Bad Request",
                    "No required SSL certificate was sent",
                ),
                497 => (
                    "400 The plain HTTP request was sent to HTTPS port",
                    "400 Bad Request",
                    "The plain HTTP request was sent to HTTPS port",
                ),
                498 => ("404 Not Found", "404 Not Found", ""),
                _ => return None,
            }
        };
    }
    Some(pages! {
        301 "Moved Permanently"
        302 "Found"
        303 "See Other"
        307 "Temporary Redirect"
        308 "Permanent Redirect"
        400 "Bad Request"
        401 "Authorization Required"
        402 "Payment Required"
        403 "Forbidden"
        404 "Not Found"
        405 "Not Allowed"
        406 "Not Acceptable"
        408 "Request Time-out"
        409 "Conflict"
        410 "Gone"
        411 "Length Required"
        412 "Precondition Failed"
        413 "Request Entity Too Large"
        414 "Request-URI Too Large"
        415 "Unsupported Media Type"
        416 "Requested Range Not Satisfiable"
        421 "Misdirected Request"
        429 "Too Many Requests"
        500 "Internal Server Error"
        501 "Not Implemented"
        502 "Bad Gateway"
        503 "Service Temporarily Unavailable"
        504 "Gateway Time-out"
        505 "HTTP Version Not Supported"
        507 "Insufficient Storage"
    })
}
