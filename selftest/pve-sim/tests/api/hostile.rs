//! Requests no well-behaved client sends.

use pve_sim::Sim;
use reqwest::Method;

use super::common::trusting;
use super::{Answer, Pve, demo, read};

async fn send(pve: &Pve, token: &str, method: Method, path: &str, kind: &str, body: Vec<u8>) -> Answer {
    let request = pve
        .client
        .request(method, format!("{}{path}", pve.base))
        .header("Authorization", format!("PVEAPIToken={token}"))
        .header("Content-Type", kind)
        .body(body);
    read(request.send().await.unwrap()).await
}

#[tokio::test]
async fn bodies() {
    let sim = Sim::start(demo()).await.unwrap();
    let (pve, (_, act)) = (Pve::of(&sim), sim.tokens());
    let path = "/api2/json/nodes/pve1/qemu/101/snapshot";
    let form = "application/x-www-form-urlencoded";
    let post = |kind: &'static str, body: Vec<u8>| send(&pve, &act, Method::POST, path, kind, body);

    let big = post(form, vec![b'x'; 600_000]).await;
    assert_eq!((big.status, big.text.as_str()), (501, "for data too large"));
    let kind = post("text/plain", b"x".to_vec()).await;
    assert_eq!(kind.status, 506);
    for bad in ["{", "[]", "null", "\u{0}", "{\"snapname\":"] {
        assert_eq!(post("application/json", bad.into()).await.status, 501, "{bad}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(post("application/json", deep.into()).await.status, 501);
    let typed = post("application/json", br#"{"snapname":["a1","b1"]}"#.to_vec()).await;
    assert_eq!(typed.status, 400);
    for bad in
        ["snapname=%zz1", "snapname=%", "snapname=a%00b", "snapname=%ff%fe", "snapname=..%2F..", "=&=&;;"]
    {
        let answer = post(form, bad.into()).await;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.body["errors"]["snapname"].is_string(), "{bad}");
    }
    let json_true = post("application/json", br#"{"snapname":"ok1","vmstate":true}"#.to_vec()).await;
    assert_eq!(json_true.status, 200, "{json_true:?}");
    for method in [Method::DELETE, Method::GET] {
        let text = format!("Unexpected content for method '{method}'");
        let answer = send(&pve, &act, method, path, form, b"force=x".to_vec()).await;
        assert_eq!((answer.status, answer.text), (501, text));
    }
    sim.stop().await;
}

#[tokio::test]
async fn chunked_bodies_are_not_supported() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let sim = Sim::start(demo()).await.unwrap();
    let mut tls = raw(&sim).await;
    let request =
        "POST /api2/json/nodes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    // The server closes after an error; whether with a TLS goodbye does not matter here.
    let _ = tls.read_to_end(&mut text).await;
    let text = String::from_utf8_lossy(&text);
    assert!(text.starts_with("HTTP/1.1 501 chunked transfer encoding not supported\r\n"), "{text}");
    assert!(text.contains("Server: pve-api-daemon/3.0\r\n"), "{text}");
    sim.stop().await;
}

#[tokio::test]
async fn header_blocks() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let sim = Sim::start(demo()).await.unwrap();
    let (_, act) = sim.tokens();
    let auth = format!("Authorization: PVEAPIToken={act}\r\n");
    let big = format!("X-Big: {}\r\n", "x".repeat(20_000));
    let many: String = (0..100).map(|i| format!("X-{i}: y\r\n")).collect();
    for (headers, accepted) in
        [(String::new(), true), (big, false), (many, false), ("no header".into(), false)]
    {
        let mut tls = raw(&sim).await;
        let request = format!(
            "GET /api2/json/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{auth}{headers}\r\n\r\n"
        );
        let _ = tls.write_all(request.as_bytes()).await;
        let mut text = Vec::new();
        let _ = tls.read_to_end(&mut text).await;
        let text = String::from_utf8_lossy(&text);
        assert_eq!(text.starts_with("HTTP/1.1 200 OK"), accepted, "{text}");
        assert!(accepted || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    // After all that the next client is served.
    let answer = Pve::of(&sim).get(&act, "/version").await;
    assert_eq!(answer.status, 200);
    sim.stop().await;
}

#[tokio::test]
async fn paths_and_parameters() {
    let sim = Sim::start(demo()).await.unwrap();
    let (pve, (_, act)) = (Pve::of(&sim), sim.tokens());
    for bad in ["abc", "99", "-5", "0100", "99999999999999999999", "1e3", "%20100", "100%00", "%ff"] {
        let answer = pve.get(&act, &format!("/nodes/pve1/qemu/{bad}/config")).await;
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
        assert!(answer.body["errors"]["vmid"].is_string(), "{bad}");
    }
    for bad in ["x", "UPID:", "UPID:pve1:zz:zz:zz:a:b:c:", "%25"] {
        let answer = pve.get(&act, &format!("/nodes/pve1/tasks/{bad}/status")).await;
        assert_eq!(answer.body["errors"]["upid"], "unable to parse worker upid", "{bad}");
    }
    let conflict = pve.get(&act, "/nodes/pve1/qemu/100/config?vmid=101").await;
    assert!(conflict.body["errors"]["vmid"].as_str().unwrap().starts_with("duplicate parameter"));
    for (path, status) in [
        ("/nodes/pve1/qemu?full=yes", 400),
        ("/nodes/pve1/tasks?limit=-1", 400),
        ("/nodes/pve1/tasks?source=everything", 400),
        ("/nodes/pve1/qemu/100/feature", 400),
        ("/nodes/pve1/qemu/100/snapshot/nosuch/config", 500),
        ("/nodes/nosuch/qemu", 500),
        ("/nodes/pve1/qemu/100/nosuch", 501),
        ("//version//", 200),
    ] {
        assert_eq!(pve.get(&act, path).await.status, status, "{path}");
    }
    for bad in ["", "x", "=", "a@b!c=", "writ@pve!act=wrong", "writ@pve=x", "%zz=%zz"] {
        let request = pve.client.get(format!("{}/api2/json/version", pve.base));
        let answer = request.header("Authorization", format!("PVEAPIToken={bad}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{bad}");
    }
    let patch = pve.call(&act, "PATCH", "/version", "").await;
    assert_eq!(patch.reason, "method 'PATCH' not available");
    sim.stop().await;
}

/// A TLS connection to write anything to.
async fn raw(sim: &Sim) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::connect(sim.addr()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(trusting(sim)));
    connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
}
