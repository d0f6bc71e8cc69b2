//! The checks before a handler: method, transfer encoding, credentials, body.

use axum::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName};

use super::params::{self, Params};
use super::{BODY_LIMIT, Call, Format, Incoming, Outcome, Shared, access, faults, ha, lock, routes, upload};
use crate::world::{AuthId, Refusal, Release};

/// A request that passed the checks.
pub(crate) struct Passed {
    /// Nobody's name is empty: some methods need no credentials.
    who: AuthId,
    /// The path below the format, percent-decoded.
    path: String,
    format: Format,
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

impl Shared {
    /// The checks before a handler.
    pub(super) fn gate(&self, incoming: &Incoming) -> Result<Passed, Refusal> {
        let (method, headers) = (incoming.method.as_str(), &incoming.headers);
        if !matches!(method, "GET" | "POST" | "PUT" | "DELETE") {
            return Err(Refusal::new(501, format!("method '{method}' not available")));
        }
        if let Some(encoding) = text(headers, header::TRANSFER_ENCODING) {
            return Err(Refusal::new(
                501,
                if encoding.eq_ignore_ascii_case("chunked") {
                    "chunked transfer encoding not supported".to_owned()
                } else {
                    format!("Unknown transfer encoding '{encoding}'")
                },
            ));
        }
        let no_file = || Refusal::new(404, format!("no such file '{}'", incoming.path));
        let api = incoming.path.strip_prefix("/api2/").ok_or_else(no_file)?;
        let (format, api_path) = match (api.strip_prefix("json"), api.strip_prefix("extjs")) {
            (Some(rest), _) => (Format::Json, rest),
            (_, Some(rest)) => (Format::Extjs, rest),
            _ => return Err(no_file()),
        };
        let path = params::unescape(api_path.as_bytes(), false);
        let who = if access::is_open(method, &path) {
            AuthId { user: String::new(), token: None }
        } else {
            self.identify(method, headers)?
        };
        let length: u64 = text(headers, header::CONTENT_LENGTH).and_then(|v| v.parse().ok()).unwrap_or(0);
        if length > 0 && matches!(method, "GET" | "DELETE") {
            let message = format!("Unexpected content for method '{method}'");
            return Err(Refusal::new(501, message));
        }
        let is_upload = method == "POST" && path.ends_with("/upload");
        if length > if is_upload { upload::UPLOAD_LIMIT } else { BODY_LIMIT } as u64 {
            return Err(Refusal::new(501, "for data too large"));
        }
        if length > 0 {
            let kind = text(headers, header::CONTENT_TYPE).unwrap_or_default();
            let kind = kind.split(';').next().unwrap_or_default().trim();
            let known = ["", "application/x-www-form-urlencoded", "application/json"];
            let is_file = is_upload && kind == "multipart/form-data";
            if !known.contains(&kind) && !is_file {
                let message = format!("upload 'Content-Type '{kind}'' not implemented");
                return Err(Refusal::new(506, message));
            }
        }
        Ok(Passed { who, path, format })
    }

    /// Who sends the request: the cookie wins over the token.
    fn identify(&self, method: &str, headers: &HeaderMap) -> Result<AuthId, Refusal> {
        let unix = self.now().unix;
        let world = lock(&self.world);
        if let Some(ticket) = text(headers, header::COOKIE).and_then(ticket_of) {
            let Some(user) = world.check_ticket(&ticket, unix) else {
                // Not recorded.
                return Err(Refusal::new(401, "permission denied - invalid PVE ticket"));
            };
            let csrf = headers.get("CSRFPreventionToken").and_then(|v| v.to_str().ok()).unwrap_or_default();
            if method != "GET" && !world.check_csrf(csrf, &user, unix) {
                return Err(Refusal::new(401, "Permission denied - invalid csrf token"));
            }
            return Ok(AuthId { user, token: None });
        }
        let Some((id, secret)) = text(headers, header::AUTHORIZATION).and_then(token_of) else {
            return Err(Refusal::new(401, "No ticket"));
        };
        world.access.check_token(&id, &secret, unix).map_err(|why| match world.release {
            Release::V8 => Refusal::new(401, why),
            // Since then the reasons are not told apart.
            Release::V9 => Refusal::new(401, "Authentication failed!"),
        })
    }

    /// Runs the handler.
    pub(super) fn handle(&self, incoming: &Incoming, passed: Passed, body: &Bytes) -> Outcome {
        let Passed { who, path, format } = passed;
        let method = incoming.method.as_str();
        let kind = text(&incoming.headers, header::CONTENT_TYPE).unwrap_or_default();
        let from_body = if kind.starts_with("application/json") && !body.is_empty() {
            Params::from_json(body)
        } else if kind.starts_with("multipart/form-data") {
            upload::read(kind, body)
        } else {
            Ok(Params::from_form(body))
        };
        let mut params = match from_body {
            Ok(params) => params,
            Err(refusal) => return Outcome::plain(&refusal, method),
        };
        params.override_with(Params::from_form(incoming.query.as_deref().unwrap_or_default().as_bytes()));
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        if faults::is_protected(incoming, &parts) && lock(&self.daemon).meets() {
            return Outcome::refused(&Refusal::unreachable(), format);
        }
        let now = self.now();
        let mut world = lock(&self.world);
        world.settle_all(now);
        if let Err(refusal) = access::refuse_token(&who, method, &parts) {
            return Outcome::refused(&refusal, format);
        }
        if !world.cluster.quorate && needs_quorum(method, &parts) {
            return Outcome::refused(&Refusal::no_quorum(), format);
        }
        let online = match parts.as_slice() {
            ["nodes", name, ..] => Some(*name).filter(|n| world.peers.get(*n).is_some_and(|p| p.online)),
            _ => None,
        };
        let result = match online {
            None => routes::dispatch(Call { world: &mut world, now, who, params }, method, &path),
            Some(name) => world
                .at_peer(name, |there| {
                    routes::dispatch(Call { world: there, now, who, params }, method, &path)
                })
                .unwrap_or_else(|| Err(Refusal::unreachable())),
        };
        match result {
            Ok(mut reply) => {
                ha::decorate(&world, method, &parts, &mut reply.data);
                Outcome::done(reply, format)
            }
            Err(refusal) => Outcome::refused(&refusal, format),
        }
    }
}

/// Whether the cluster must be quorate: everything that changes something, except logging in and
/// stopping a task.
fn needs_quorum(method: &str, parts: &[&str]) -> bool {
    method != "GET" && !matches!(parts, ["access", "ticket"] | ["nodes", _, "tasks", ..])
}

/// The ticket in a `Cookie` header.
fn ticket_of(header: &str) -> Option<String> {
    let pairs = header.split(';').map(str::trim);
    let value = pairs.filter_map(|p| p.strip_prefix("PVEAuthCookie=")).next()?;
    Some(params::unescape(value.as_bytes(), false))
}

/// Finds `PVEAPIToken=ID=SECRET` (or with a space) in the header; the value is percent-decoded and
/// split at its last `=`.
fn token_of(header: &str) -> Option<(String, String)> {
    let at = header.find("PVEAPIToken")?;
    if at > 0 && !header[..at].ends_with(char::is_whitespace) {
        return None;
    }
    let value = header[at..].strip_prefix("PVEAPIToken")?.strip_prefix(['=', ' '])?;
    let value = value.split(';').next().unwrap_or_default();
    let value = params::unescape(value.as_bytes(), false);
    let (id, secret) = value.rsplit_once('=')?;
    Some((id.to_owned(), secret.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::token_of;

    #[test]
    fn authorization_forms() {
        let some = |id: &str, secret: &str| Some((id.to_owned(), secret.to_owned()));
        assert_eq!(token_of("PVEAPIToken=a@pve!t=s"), some("a@pve!t", "s"));
        assert_eq!(token_of("PVEAPIToken a@pve!t=s"), some("a@pve!t", "s"));
        assert_eq!(token_of("x PVEAPIToken=a%3Db@pve!t=s;rest"), some("a=b@pve!t", "s"));
        assert_eq!(token_of("Bearer x"), None);
        assert_eq!(token_of("xPVEAPIToken=a=b"), None);
        assert_eq!(token_of("PVEAPIToken=nothing"), None);
        assert_eq!(token_of("PVEAPIToken="), None);
    }
}
