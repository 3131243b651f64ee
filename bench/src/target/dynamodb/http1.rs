//! HTTP/1.1 answers in a stream of bytes.

use super::super::ProtocolError;

/// Headers of one answer.
const HEADERS_MAX: usize = 64;
/// Longest head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Longest body: a page of a Query is at most 1 MB of items, a third more in base64.
const BODY_BYTES_MAX: usize = 16 << 20;

/// A whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
    /// Who answered, where it says.
    pub(super) server: Option<&'a str>,
}

/// The first answer in `bytes` and its length, if it is whole. A chunked body is put together in
/// `joined`.
pub(super) fn split<'a>(
    bytes: &'a [u8],
    joined: &'a mut Vec<u8>,
) -> Result<Option<(Answer<'a>, usize)>, ProtocolError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(ProtocolError::Length),
        Err(httparse::Error::Version | httparse::Error::Token) => {
            return Err(ProtocolError::ReplyKind { found: bytes[0] });
        }
        Err(_) => return Err(ProtocolError::Damaged { what: "the head of an HTTP answer" }),
    };
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let status = response.code.expect("a complete answer has a status");
    let server = header("server");
    let body = &bytes[head..];
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        let Some(used) = join_chunks(body, joined)? else { return Ok(None) };
        return Ok(Some((Answer { status, body: joined, server }, head + used)));
    }
    let length = header("content-length").and_then(|value| value.trim().parse::<usize>().ok());
    let length = length.filter(|&length| length <= BODY_BYTES_MAX).ok_or(ProtocolError::Length)?;
    match body.get(..length) {
        Some(body) => Ok(Some((Answer { status, body, server }, head + length))),
        None => Ok(None),
    }
}

/// Copies the chunks of `body` into `joined`; the bytes that they took, if all are there.
fn join_chunks(body: &[u8], joined: &mut Vec<u8>) -> Result<Option<usize>, ProtocolError> {
    joined.clear();
    let mut used = 0;
    loop {
        let (line, length) = match httparse::parse_chunk_size(&body[used..]) {
            Ok(httparse::Status::Complete((line, length))) => (line, length),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(ProtocolError::Length),
        };
        used += line;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| joined.len() + length <= BODY_BYTES_MAX)
            .ok_or(ProtocolError::Length)?;
        // The chunk, or the end without trailers, and an empty line.
        let Some(chunk) = body.get(used..used + length + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err(ProtocolError::Length);
        }
        joined.extend_from_slice(&chunk[..length]);
        used += length + 2;
        if length == 0 {
            return Ok(Some(used));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_a_length_or_chunks() {
        let mut joined = Vec::new();
        let plain = b"HTTP/1.1 400 Bad\r\nServer: x/1\r\nContent-Length: 2\r\n\r\n{}rest";
        let (answer, used) = split(plain, &mut joined).unwrap().unwrap();
        assert_eq!(answer, Answer { status: 400, body: b"{}", server: Some("x/1") });
        assert_eq!(used, plain.len() - 4);
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nX";
        for cut in 0..chunked.len() - 1 {
            assert_eq!(split(&chunked[..cut], &mut joined), Ok(None), "at {cut}");
        }
        let (answer, used) = split(chunked, &mut joined).unwrap().unwrap();
        assert_eq!((answer.body, used), (&b"abc0123456789"[..], chunked.len() - 1));
    }

    #[test]
    fn foreign_bytes_are_named_errors() {
        let mut joined = Vec::new();
        let mut error = |bytes: &[u8]| split(bytes, &mut joined).unwrap_err();
        assert_eq!(error(b"+PONG\r\n"), ProtocolError::ReplyKind { found: b'+' });
        assert_eq!(error(b"HTTP/1.1 200 OK\r\n\r\n"), ProtocolError::Length);
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(error(&[&chunked[..], b"zz\r\n"].concat()), ProtocolError::Length);
        assert_eq!(error(&[&chunked[..], b"1\r\nabc"].concat()), ProtocolError::Length);
        assert_eq!(error(&[&chunked[..], b"ffffffffffff\r\n"].concat()), ProtocolError::Length);
    }
}
