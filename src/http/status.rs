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
        429 => "Too Many Requests",
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

/// Whether `msie_padding` pads error pages for the browser with this User-Agent: MSIE and Chrome,
/// as nginx tells them apart.
pub fn is_padded_browser(user_agent: &[u8]) -> bool {
    let has = |needle: &[u8]| memchr::memmem::find(user_agent, needle).is_some();
    (has(b"MSIE ") || (has(b"Chrome/") && !has(b"Gecko/"))) && !has(b"Opera")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn page(code: u16, tokens: bool, padding: bool) -> String {
        let mut out = Vec::new();
        assert!(write_page(code, PageStyle { tokens, padding }, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn pages_are_byte_for_byte() {
        assert_eq!(
            page(403, false, false),
            "<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n\
             <center><h1>403 Forbidden</h1></center>\r\n<hr><center>ringway</center>\r\n\
             </body>\r\n</html>\r\n"
        );
        let full = format!("<center>ringway/{}</center>", env!("CARGO_PKG_VERSION"));
        assert!(page(403, true, false).contains(&full));
        assert!(page(494, false, false).contains(
            "<title>400 Request Header Or Cookie Too Large</title></head>\r\n<body>\r\n\
             <center><h1>400 Bad Request</h1></center>\r\n\
             <center>Request Header Or Cookie Too Large</center>\r\n<hr>"
        ));
        assert!(page(302, false, false).contains("<h1>302 Found</h1>"));
    }

    #[test]
    fn padding_makes_an_error_page_long_enough() {
        assert!(page(404, false, true).len() > 512);
        assert_eq!(page(301, false, true), page(301, false, false));
    }

    #[test]
    fn padded_browsers_are_recognised() {
        let chrome =
            b"Mozilla/5.0 (X11) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/100.0 Safari/1";
        assert!(is_padded_browser(chrome));
        assert!(is_padded_browser(b"Mozilla/4.0 (compatible; MSIE 6.0)"));
        assert!(!is_padded_browser(
            b"Mozilla/4.0 (compatible; MSIE 6.0) Opera 7"
        ));
        assert!(!is_padded_browser(b"Mozilla/5.0 Gecko/2010 Firefox/3"));
        assert!(!is_padded_browser(b"curl/8"));
    }

    #[test]
    fn every_page_has_a_reason_and_unknown_codes_have_none() {
        for code in 0..1000 {
            let mut out = Vec::new();
            let has_page = write_page(
                code,
                PageStyle {
                    tokens: true,
                    padding: true,
                },
                &mut out,
            );
            assert_eq!(has_page, !out.is_empty());
            if has_page && code != 498 {
                assert!(!reason(code).is_empty(), "{code}");
            }
        }
        assert_eq!(
            (reason(401), reason(414)),
            ("Unauthorized", "Request-URI Too Large")
        );
        assert_eq!((on_the_wire(497), on_the_wire(503)), (400, 503));
        assert!(closes_connection(413) && !closes_connection(404));
    }
}
