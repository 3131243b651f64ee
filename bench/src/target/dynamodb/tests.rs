//! Bodies, answers in pieces, the queue of a connection.

use super::super::tests::{Owned, every_split_decodes_alike};
use super::*;

fn endpoint(sort_digits: usize) -> Endpoint {
    let (credentials, _) = credentials_from(|_| None);
    Endpoint {
        host: "h:1".to_owned(),
        credentials,
        table: "\"t\"".to_owned(),
        sort_digits,
        consistent: true,
    }
}

fn body(sort_digits: usize, request: Request<'_>) -> (Operation, serde_json::Value) {
    let mut body = Vec::new();
    let operation = DynamoDbCodec::new(endpoint(sort_digits)).write_body(request, &mut body);
    (operation, serde_json::from_slice(&body).unwrap())
}

#[test]
fn bodies_are_those_of_the_api() {
    use serde_json::json;
    let key = b"user00042";
    let get = body(0, Request::Get { key });
    assert_eq!(
        get,
        (
            Operation::GetItem,
            json!({"TableName": "t", "Key": {"id": {"S": "user00042"}}, "ConsistentRead": true})
        )
    );
    let put = body(2, Request::PutExisting { key, value: b"\x00\xffab" });
    assert_eq!(
        put,
        (
            Operation::PutItem,
            json!({"TableName": "t",
                   "Item": {"id": {"S": "user000"}, "n": {"S": "42"}, "v": {"B": "AP9hYg=="}},
                   "ConditionExpression": "attribute_exists(id)"})
        )
    );
    let empty = body(0, Request::Put { key, value: b"" });
    assert_eq!(empty.1["Item"]["v"], json!({"B": ""}));
    let query = body(2, Request::Query { key, items: 7 });
    assert_eq!(
        query,
        (
            Operation::Query,
            json!({"TableName": "t", "KeyConditionExpression": "id = :id AND n >= :n",
                   "ExpressionAttributeValues": {":id": {"S": "user000"}, ":n": {"S": "42"}},
                   "Limit": 7, "ConsistentRead": true})
        )
    );
    let scan = body(0, Request::Scan { key, items: 7 });
    assert_eq!(
        scan,
        (
            Operation::Scan,
            json!({"TableName": "t", "ExclusiveStartKey": {"id": {"S": "user00042"}},
                   "Limit": 7, "ConsistentRead": true})
        )
    );
    assert_eq!(body(2, Request::Scan { key, items: 7 }).0, Operation::Query);
    let create = create_body(&endpoint(2), &["id", "n"]);
    let create: serde_json::Value = serde_json::from_str(&create).unwrap();
    assert_eq!(create["KeySchema"][1], json!({"AttributeName": "n", "KeyType": "RANGE"}));
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn answers_in_any_pieces_are_read_one_at_a_time() {
    let throttled = "{\"__type\":\"com.amazonaws.dynamodb.v20120810#ThrottlingException\",\
                     \"message\":\"slow down\"}";
    let failed = "{\"__type\":\"x#ConditionalCheckFailedException\",\"Message\":\"m\"}";
    let cases = [
        (
            answer("200 OK", "{\"Item\":{\"v\":{\"B\":\"AP9hYg==\"},\"id\":{\"S\":\"k\"}}}"),
            Owned::Value(b"\x00\xffab".to_vec()),
        ),
        (answer("200 OK", "{\"Item\":{\"v\":{\"B\":\"\\/\\/8=\"}}}"), Owned::Value(vec![255, 255])),
        (answer("200 OK", "{}"), Owned::Missing),
        (
            answer("400 Bad Request", throttled),
            Owned::Refused("ThrottlingException: slow down".to_owned()),
        ),
        (answer("400 Bad Request", failed), Owned::Refused(CONDITION_FAILED.to_owned())),
        (answer("500 Oops", "<html>"), Owned::Refused("HTTP status 500".to_owned())),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
                .to_vec(),
            Owned::Missing,
        ),
    ];
    for (bytes, expected) in cases {
        let codec = || {
            let mut codec = DynamoDbCodec::new(endpoint(0));
            codec.encode(Request::Get { key: b"user1" }, 9, &mut SendBuf::new());
            codec
        };
        every_split_decodes_alike(codec, &bytes, &[(9, expected)]);
    }
}

#[test]
fn a_connection_carries_one_request_at_a_time_in_order() {
    let mut codec = DynamoDbCodec::new(endpoint(0));
    let mut out = SendBuf::new();
    for correlation in 1..=3 {
        codec.encode(Request::Get { key: b"user1" }, correlation, &mut out);
    }
    let requests = |out: &SendBuf| out.windows(6).filter(|window| *window == b"POST /").count();
    assert_eq!(requests(&out), 1);
    let mut seen = Vec::new();
    for _ in 0..3 {
        out.clear();
        codec.speak(&mut out);
        assert!(out.is_empty(), "nothing before the answer");
        codec
            .decode(&answer("200 OK", "{}"), &mut |correlation, _| seen.push(correlation))
            .unwrap();
        codec.speak(&mut out);
        assert_eq!(requests(&out), usize::from(seen.len() < 3));
    }
    assert_eq!(seen, [1, 2, 3]);
    let unasked = codec.decode(&answer("200 OK", "{}"), &mut |_, _| {});
    assert_eq!(unasked, Err(ProtocolError::Unasked));
}

#[test]
fn what_is_sent_is_signed_with_all_its_headers() {
    let (mut credentials, _) = credentials_from(|name| Some(name.to_lowercase()));
    assert_eq!(credentials.access_key, "aws_access_key_id");
    credentials.region = "eu-west-1".to_owned();
    let mut codec = DynamoDbCodec::new(Endpoint { credentials, ..endpoint(0) });
    let mut out = SendBuf::new();
    codec.encode(Request::Get { key: b"user1" }, 1, &mut out);
    let text = String::from_utf8(out.to_vec()).unwrap();
    let authorization =
        text.split("\r\n").find_map(|line| line.strip_prefix("authorization: ")).unwrap();
    assert!(authorization.contains("/eu-west-1/dynamodb/aws4_request, "), "{authorization}");
    let names = "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, ";
    assert!(authorization.contains(names), "{authorization}");
    assert!(text.contains("\r\nx-amz-security-token: aws_session_token\r\n"), "{text}");
    assert!(text.contains("\r\nx-amz-target: DynamoDB_20120810.GetItem\r\n"), "{text}");
}

/// Bytes that no endpoint sends never panic.
#[test]
fn random_bytes_end_in_an_error_or_in_silence() {
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};
    let valid = answer("200 OK", "{\"Item\":{\"v\":{\"B\":\"AP9hYg==\"},\"id\":{\"S\":\"k\"}}}");
    for seed in 0..3000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut bytes = valid.clone();
        for _ in 0..rng.random_range(1..5) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        let mut codec = DynamoDbCodec::new(endpoint(0));
        codec.encode(Request::Get { key: b"user1" }, 1, &mut SendBuf::new());
        let piece = rng.random_range(1..=bytes.len());
        let mut replies = 0;
        for bytes in bytes.chunks(piece) {
            if codec.decode(bytes, &mut |_, _| replies += 1).is_err() {
                break;
            }
        }
        assert!(replies <= 1, "seed {seed}");
    }
}
