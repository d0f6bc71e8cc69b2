//! Where a node's API is.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

/// pveproxy's port.
const DEFAULT_PORT: u16 = 8006;

/// `https://host:port`. Port 8006 if none is written; never plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    base: Url,
}

impl Endpoint {
    /// `https://host:port/api2/json` and an already encoded path that starts with `/`.
    pub(crate) fn api(&self, encoded_path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/api2/json{encoded_path}"));
        url
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        let fail =
            |why| EndpointError { given: text.chars().filter(|c| !c.is_control()).take(80).collect(), why };
        let mut base = Url::parse(text).map_err(|_| fail("it is not a URL"))?;
        if base.scheme() != "https" {
            return Err(fail("only https is spoken"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(fail("it holds a user name or password"));
        }
        if base.host_str().is_none_or(str::is_empty) {
            return Err(fail("it has no host"));
        }
        if base.path() != "/" || base.query().is_some() || base.fragment().is_some() {
            return Err(fail("it must end after the port, without path, query or fragment"));
        }
        // `Url` forgets an explicit `:443`, so look at the text before filling in the usual port.
        if base.port().is_none() && !text.trim_end_matches('/').ends_with(":443") {
            base.set_port(Some(DEFAULT_PORT)).map_err(|()| fail("it cannot carry a port"))?;
        }
        Ok(Self { base })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.as_str().trim_end_matches('/'))
    }
}

/// Not a usable base URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a Proxmox API address, {why}: write `https://host:8006`")]
pub struct EndpointError {
    given: String,
    why: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_port_is_filled_in() {
        for (text, shown) in [
            ("https://127.0.0.1:8006", "https://127.0.0.1:8006"),
            ("https://pve1/", "https://pve1:8006"),
            ("https://pve1:443", "https://pve1"),
            ("https://[::1]:9000/", "https://[::1]:9000"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert!(endpoint.api("/version").as_str().ends_with("/api2/json/version"));
        }
    }

    #[test]
    fn anything_but_a_bare_https_base_is_refused() {
        for bad in [
            "",
            "pve1:8006",
            "http://pve1:8006",
            "https://root:x@pve1:8006",
            "https://pve1:8006/api2/json",
            "https://pve1:8006/?a=b",
            "https://pve1:8006/#x",
            "https://:8006",
            "file:///etc/passwd",
        ] {
            let error = bad.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains("https://host:8006"), "{error}");
        }
    }
}
