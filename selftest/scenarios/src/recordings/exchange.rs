//! One recorded exchange, in either of the two forms: taken apart, or the bytes on the wire.

use serde::Deserialize;

/// An exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) name: String,
    pub(super) method: String,
    /// With the query, as it was sent.
    pub(super) target: String,
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) body: Vec<u8>,
    /// `Content-Encoding`, where there was one.
    pub(super) encoding: Option<String>,
    /// What a person said it should be; only in curated files.
    pub(super) expect: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    name: Option<String>,
    request: Option<Request>,
    response: Option<Response>,
    request_raw: Option<String>,
    response_raw: Option<String>,
    expect: Option<String>,
}

#[derive(Deserialize)]
struct Request {
    method: String,
    url: String,
}

#[derive(Deserialize)]
struct Response {
    status: u16,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    body_raw: Option<String>,
    #[serde(default)]
    body: Option<serde_json::Value>,
}

impl Exchange {
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let line: Line = serde_json::from_slice(line).map_err(|error| format!("not an exchange: {error}"))?;
        let name = line.name.unwrap_or_else(|| "(no name)".to_owned());
        let mut exchange = match (line.request, line.response, line.request_raw, line.response_raw) {
            (Some(request), Some(response), ..) => Self::of(request, response),
            (_, _, Some(request), Some(response)) => Self::of_wire(&request, &response)?,
            _ => return Err("neither request and response nor their raw forms are there".to_owned()),
        };
        exchange.name = name;
        exchange.expect = line.expect;
        Ok(exchange)
    }

    fn of(request: Request, response: Response) -> Self {
        // Recordings keep the body as it came; where only the decoded one was kept, it is as good.
        let body = match (response.body_raw, response.body) {
            (Some(raw), _) => raw.into_bytes(),
            (None, None | Some(serde_json::Value::Null)) => Vec::new(),
            (None, Some(value)) => value.to_string().into_bytes(),
        };
        let encoding =
            response.headers.into_iter().find(|(name, _)| is_encoding(name)).map(|(_, value)| value);
        Self {
            name: String::new(),
            encoding,
            method: request.method,
            target: below_host(&request.url).to_owned(),
            status: response.status,
            reason: response.reason.unwrap_or_default(),
            body,
            expect: None,
        }
    }

    fn of_wire(request: &str, response: &str) -> Result<Self, String> {
        let mut words = request.lines().next().unwrap_or_default().split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut head = httparse::Response::new(&mut headers);
        let length = match head.parse(response.as_bytes()) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Err("the answer has no end of its head".to_owned()),
            Err(error) => return Err(format!("the answer is not HTTP: {error}")),
        };
        let wanted = head
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("content-length"))
            .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
        let encoding = head.headers.iter().find(|header| is_encoding(header.name));
        let encoding = encoding.map(|header| String::from_utf8_lossy(header.value).into_owned());
        let rest = &response.as_bytes()[length..];
        // Several answers may stand one after the other on a connection that was kept: the first counts.
        let body = rest.get(..wanted.unwrap_or(rest.len())).unwrap_or(rest).to_vec();
        Ok(Self {
            name: String::new(),
            method: method.to_owned(),
            target: target.to_owned(),
            status: head.code.unwrap_or(0),
            reason: head.reason.unwrap_or_default().to_owned(),
            body,
            encoding,
            expect: None,
        })
    }
}

fn is_encoding(header: &str) -> bool {
    header.eq_ignore_ascii_case("content-encoding")
}

/// `/path?query` of an address that may begin with `https://host:port`.
fn below_host(url: &str) -> &str {
    let Some((_, rest)) = url.split_once("://") else { return url };
    rest.find('/').map_or("/", |slash| &rest[slash..])
}
