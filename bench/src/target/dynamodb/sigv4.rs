//! AWS Signature Version 4, in the `Authorization` header.
//!
//! ```text
//!   canonical request ─ SHA-256 ─┐
//!   time, scope ─────────────────┴─► string to sign ─ HMAC with the day's key ─► signature
//!   key of the day = HMAC(HMAC(HMAC(HMAC("AWS4" + secret, date), region), service), "aws4_request")
//! ```
//!
//! As "Create a signed AWS API request" in AWS's IAM guide describes it. The day's key is derived
//! once a day, and its HMAC state copied for each request; the rest is two hashes and one HMAC.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::calendar::civil_from_days;

/// Who signs, and for what.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) access_key: String,
    pub(super) secret_key: String,
    pub(super) session_token: Option<String>,
    pub(super) region: String,
}

impl std::fmt::Debug for Credentials {
    /// Without the secrets: this may stand in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("region", &self.region).finish_non_exhaustive()
    }
}

/// A moment as signatures write it: `20150830T123600Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AmzDate([u8; 16]);

impl AmzDate {
    /// Of so many seconds since 1970.
    pub(super) fn of(unix_seconds: u64) -> AmzDate {
        let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
        let (year, month, day) = civil_from_days(days);
        let mut text = *b"00000000T000000Z";
        let fields = [
            (0, 4, year),
            (4, 2, month),
            (6, 2, day),
            (9, 2, seconds / 3600),
            (11, 2, seconds / 60 % 60),
            (13, 2, seconds % 60),
        ];
        for (at, digits, mut value) in fields {
            for place in text[at..at + digits].iter_mut().rev() {
                *place = b'0' + (value % 10) as u8;
                value /= 10;
            }
        }
        AmzDate(text)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn day(&self) -> &[u8] {
        &self.0[..8]
    }
}

/// What is signed of a request. Header names are in lower case and in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a [(&'a str, &'a [u8])],
    pub(super) body: &'a [u8],
}

/// Signs requests; one for each connection, with its own buffers.
pub(super) struct Signer {
    credentials: Credentials,
    service: &'static str,
    /// The day's key, and the day.
    key: Option<([u8; 8], Hmac<Sha256>)>,
    canonical: Vec<u8>,
    to_sign: Vec<u8>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl Signer {
    pub(super) fn new(credentials: Credentials, service: &'static str) -> Signer {
        let (canonical, to_sign) = (Vec::new(), Vec::new());
        Signer { credentials, service, key: None, canonical, to_sign }
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Appends the value of `Authorization` for `request` at `date` to `out`.
    pub(super) fn authorize(
        &mut self,
        request: &Signed<'_>,
        date: &AmzDate,
        out: &mut impl FnMut(&[u8]),
    ) {
        debug_assert!(request.headers.is_sorted_by_key(|(name, _)| *name));
        let canonical = &mut self.canonical;
        canonical.clear();
        for part in [request.method, "\n", request.path, "\n", request.query, "\n"] {
            canonical.extend_from_slice(part.as_bytes());
        }
        for (name, value) in request.headers {
            for part in [name.as_bytes(), b":", value.trim_ascii(), b"\n"] {
                canonical.extend_from_slice(part);
            }
        }
        canonical.push(b'\n');
        signed_headers(request.headers, &mut |part| canonical.extend_from_slice(part));
        canonical.push(b'\n');
        canonical.extend_from_slice(&hex(&Sha256::digest(request.body)));
        let hash = hex(&Sha256::digest(&*canonical));

        let (credentials, service) = (&self.credentials, self.service.as_bytes());
        let scope: [&[u8]; 6] =
            [date.day(), b"/", credentials.region.as_bytes(), b"/", service, b"/aws4_request"];
        let to_sign = &mut self.to_sign;
        to_sign.clear();
        to_sign.extend_from_slice(b"AWS4-HMAC-SHA256\n");
        to_sign.extend_from_slice(date.bytes());
        to_sign.push(b'\n');
        scope.iter().for_each(|part| to_sign.extend_from_slice(part));
        to_sign.push(b'\n');
        to_sign.extend_from_slice(&hash);

        let day: [u8; 8] = date.day().try_into().expect("eight digits");
        let key = match &self.key {
            Some((of, key)) if *of == day => key,
            _ => &self.key.insert((day, derive(credentials, self.service, &day))).1,
        };
        let mut mac = key.clone();
        mac.update(to_sign);
        let signature = hex(&mac.finalize().into_bytes());

        out(b"AWS4-HMAC-SHA256 Credential=");
        out(credentials.access_key.as_bytes());
        out(b"/");
        scope.iter().for_each(|part| out(part));
        out(b", SignedHeaders=");
        signed_headers(request.headers, out);
        out(b", Signature=");
        out(&signature);
    }
}

fn signed_headers(headers: &[(&str, &[u8])], out: &mut impl FnMut(&[u8])) {
    for (place, (name, _)) in headers.iter().enumerate() {
        if place > 0 {
            out(b";");
        }
        out(name.as_bytes());
    }
}

/// The key of a day.
fn derive(credentials: &Credentials, service: &str, day: &[u8]) -> Hmac<Sha256> {
    let keyed = |key: &[u8]| Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    let mut mac = keyed(format!("AWS4{}", credentials.secret_key).as_bytes());
    for part in [day, credentials.region.as_bytes(), service.as_bytes(), b"aws4_request"] {
        mac.update(part);
        mac = keyed(&mac.finalize().into_bytes());
    }
    mac
}

fn hex(bytes: &[u8]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The credentials and the moment of AWS's Signature Version 4 test suite.
    const MOMENT: u64 = 1_440_938_160;

    fn signature(method: &str, headers: &[(&str, &[u8])], body: &[u8]) -> String {
        let credentials = Credentials {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            region: "us-east-1".to_owned(),
        };
        let mut signer = Signer::new(credentials, "service");
        let request = Signed { method, path: "/", query: "", headers, body };
        let mut out = Vec::new();
        signer.authorize(&request, &AmzDate::of(MOMENT), &mut |part| out.extend_from_slice(part));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_published_test_suite_is_reproduced() {
        let date: (&str, &[u8]) = ("x-amz-date", b"20150830T123600Z");
        let host: (&str, &[u8]) = ("host", b"example.amazonaws.com");
        // get-vanilla
        assert_eq!(
            signature("GET", &[host, date], b""),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        // post-vanilla
        assert!(signature("POST", &[host, date], b"").ends_with(
            "Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        ));
        // post-x-www-form-urlencoded: a body and a content type
        let form: (&str, &[u8]) = ("content-type", b"application/x-www-form-urlencoded");
        assert!(signature("POST", &[form, host, date], b"Param1=value1").ends_with(
            "Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        ));
    }

    #[test]
    fn moments_are_written_as_signatures_want_them() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (MOMENT, "20150830T123600Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(AmzDate::of(seconds).bytes(), text.as_bytes());
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let credentials = Credentials {
            access_key: "AKID".to_owned(),
            secret_key: "hidden".to_owned(),
            session_token: Some("hidden too".to_owned()),
            region: "here".to_owned(),
        };
        let signer = Signer::new(credentials, "dynamodb");
        let shown = format!("{signer:?}");
        assert!(shown.contains("here") && !shown.contains("hidden"), "{shown}");
    }
}
