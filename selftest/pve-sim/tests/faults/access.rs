//! Users, tokens, roles, ACL lines and tickets.

use pve_sim::Sim;
use pve_sim::world::{AuthId, Release};
use serde_json::{Value, json};

use super::{Answer, Pve, demo, read};

/// The demo, with a token of `root@pam` without separation.
async fn with_root() -> (Sim, Pve) {
    let mut config = demo();
    let access = &mut config.world.access;
    access.add_token("root@pam!t", None, 0);
    access.tokens.get_mut(&AuthId::parse("root@pam!t")).unwrap().privsep = false;
    access.users.get_mut("root@pam").unwrap().password = Some("made-up".to_owned());
    let sim = Sim::start(config).await.unwrap();
    let pve = Pve::with(&sim, &sim.token("root@pam!t"));
    (sim, pve)
}

#[tokio::test]
async fn tokens_from_birth_to_death() {
    let (sim, root) = with_root().await;
    let path = "/access/users/writ@pve/token/new";
    let made = root.call("POST", path, "comment=x&expire=0").await.body["data"].clone();
    assert_eq!(made["full-tokenid"], "writ@pve!new");
    assert_eq!(made["info"], json!({"privsep": 1, "expire": 0, "comment": "x"}));
    let secret = made["value"].as_str().unwrap();
    let new = Pve::with(&sim, &format!("writ@pve!new={secret}"));
    assert_eq!(new.get("/version").await.status, 200);
    assert_eq!(new.get("/access/permissions").await.text, r#"{"data":{}}"#);
    assert_eq!(root.call("POST", path, "").await.body["errors"]["tokenid"], "Token already exists.");

    let grant = "path=/vms&roles=PVEAuditor&tokens=writ@pve!new";
    assert_eq!(root.call("PUT", "/access/acl", grant).await.text, r#"{"data":null}"#);
    let seen = new.get("/access/permissions?path=/vms/101").await.body;
    assert_eq!(seen["data"]["/vms/101"]["VM.Audit"], 1);
    assert_eq!(new.get("/nodes/pve1/qemu/101/config").await.status, 200);

    // A token is not its user: it cannot manage itself.
    for (method, body) in [("GET", ""), ("PUT", "comment=y"), ("DELETE", "")] {
        assert_eq!(new.call(method, path, body).await.line(), (403, "Permission check failed"), "{method}");
    }
    let regenerate = root.call("PUT", path, "regenerate=1").await;
    assert_eq!(regenerate.status, 400, "came after 9.1.8");
    assert!(!root.get(path).await.text.contains(secret), "the secret is never shown again");
    assert_eq!(root.call("DELETE", path, "").await.status, 200);
    assert_eq!(new.get("/version").await.line(), (401, "Authentication failed!"));
    root.call("POST", path, "").await;
    let lines = root.get("/access/acl").await.body;
    let left = lines["data"].as_array().unwrap().iter().any(|l| l["ugid"] == "writ@pve!new");
    assert!(!left, "deleting drops the token's lines");
    sim.stop().await;
}

#[tokio::test]
async fn a_root_token_is_not_root() {
    let (sim, root) = with_root().await;
    for (method, path) in [
        ("POST", "/nodes/pve1/execute"),
        ("PUT", "/nodes/pve1/disks/wipedisk"),
        ("GET", "/cluster/backup-info"),
        ("POST", "/nodes/pve1/storage/local/content/x"),
    ] {
        let refused = root.call(method, path, "").await;
        assert_eq!(refused.line(), (403, "Permission check failed (user != root@pam)"), "{path}");
    }
    let refused = root.call("PUT", "/access/password", "userid=x").await;
    let text = "URI '/access/password' not available with API token, need proper ticket.";
    assert_eq!(refused.line(), (403, text));
    sim.stop().await;
}

#[tokio::test]
async fn users_roles_and_lists() {
    let (sim, root) = with_root().await;
    let add = "userid=new@pve&password=secret123&comment=hi";
    assert_eq!(root.call("POST", "/access/users", add).await.status, 200);
    assert_eq!(root.call("POST", "/access/users", add).await.status, 500);
    let list = root.get("/access/users").await.body["data"].clone();
    let row = list.as_array().unwrap().iter().find(|u| u["userid"] == "new@pve").unwrap().clone();
    assert_eq!(
        row,
        json!({"userid": "new@pve", "enable": 1, "expire": 0, "realm-type": "pve", "comment": "hi"})
    );
    let blind = Pve::with(&sim, &sim.token("writ@pve!noacl"));
    let own = blind.get("/access/users").await.body["data"].clone();
    assert_eq!(own.as_array().unwrap().len(), 1, "only the own user");
    assert_eq!(blind.get("/access/acl").await.text, r#"{"data":[]}"#, "as recorded");
    assert_eq!(blind.get("/access/users/new@pve").await.status, 403);
    let put = blind.call("PUT", "/access/acl", "path=/&roles=Administrator&users=writ@pve").await;
    assert_eq!(put.line(), (403, "Permission check failed (/, Permissions.Modify)"));

    let role = |privileges: &str| format!("roleid=R1&privs={privileges}");
    let bad = root.call("POST", "/access/roles", &role("VM.Audit,VM.Monitor")).await;
    assert_eq!(bad.reason, "create role failed: invalid privilege 'VM.Monitor'");
    assert_eq!(root.call("POST", "/access/roles", &role("VM.Audit,VM.GuestAgent.Audit")).await.status, 200);
    sim.world().lock().unwrap().set_release(Release::V8);
    assert_eq!(root.get("/access/roles/R1").await.body["data"], json!({"VM.Audit": 1}));
    assert_eq!(root.call("PUT", "/access/roles/R1", "privs=VM.Monitor").await.status, 200);
    assert_eq!(root.call("PUT", "/access/roles/Administrator", "privs=").await.status, 500);
    for bad in [
        "path=/vms&roles=nosuch&users=new@pve",
        "path=/vms&roles=R1&users=nobody@pve",
        "path=/vms&roles=R1&tokens=new@pve!x",
        "path=/vms&roles=R1&groups=g",
    ] {
        assert_eq!(root.call("PUT", "/access/acl", bad).await.status, 500, "{bad}");
    }
    assert_eq!(root.call("PUT", "/access/acl", "path=vms&roles=R1&users=new@pve").await.status, 400);
    assert_eq!(root.call("DELETE", "/access/users/new@pve", "").await.status, 200);
    assert_eq!(root.get("/access/users/new@pve").await.reason, "no such user ('new@pve')");
    for bad in ["userid=x", "userid=x@nope", "userid=a!b@pve"] {
        assert_eq!(root.call("POST", "/access/users", bad).await.status, 400, "{bad}");
    }
    sim.stop().await;
}

async fn as_user(pve: &Pve, cookie: &str, csrf: &str, method: &str, path: &str) -> Answer {
    let ticket = cookie.replace('=', "%3D").replace('+', "%2B").replace('/', "%2F").replace(':', "%3A");
    let mut request = pve
        .request(method, &format!("/api2/json{path}"), "")
        .header("Cookie", format!("PVEAuthCookie={ticket}"));
    if !csrf.is_empty() {
        request = request.header("CSRFPreventionToken", csrf);
    }
    read(request.send().await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn tickets() {
    let (sim, root) = with_root().await;
    let nobody = Pve::with(&sim, "");
    let logged = nobody.call("POST", "/access/ticket", "username=root@pam&password=made-up").await;
    let data = logged.body["data"].clone();
    let (ticket, csrf) = (data["ticket"].as_str().unwrap(), data["CSRFPreventionToken"].as_str().unwrap());
    assert!(ticket.starts_with("PVE:root@pam:") && csrf.split(':').count() == 2, "{data}");
    assert_eq!(data["cap"]["vms"]["VM.Audit"], 1);
    let bad = nobody.call("POST", "/access/ticket", "username=root@pam&password=wrong").await;
    assert_eq!(bad.line(), (401, "authentication failure"));
    assert_eq!(bad.body, json!({"data": null, "message": "authentication failure\n"}));
    let missing = nobody.call("POST", "/access/ticket", "username=root@pam").await;
    assert_eq!(missing.body["errors"]["password"], "property is missing and it is not optional");
    assert_eq!(nobody.get("/access/domains").await.body["data"].as_array().unwrap().len(), 2);
    assert_eq!(nobody.get("/version").await.line(), (401, "No ticket"));

    assert_eq!(as_user(&nobody, ticket, "", "GET", "/nodes").await.status, 200);
    let path = "/nodes/pve1/lxc/201/status/start";
    for csrf in ["", "x"] {
        let refused = as_user(&nobody, ticket, csrf, "POST", path).await;
        assert_eq!(refused.line(), (401, "Permission denied - invalid csrf token"));
        assert_eq!(refused.text, "");
    }
    let started = as_user(&nobody, ticket, csrf, "POST", path).await;
    assert!(started.upid().ends_with(":vzstart:201:root@pam:"), "{started:?}");
    // The cookie wins over a good token.
    assert_eq!(as_user(&root, "PVE:x", "", "GET", "/version").await.status, 401);
    let reason = as_user(&nobody, ticket, csrf, "POST", "/cluster/config").await.reason;
    assert!(reason.contains("not implemented"), "root itself gets further: {reason}");
    sim.world().lock().unwrap().access.users.get_mut("root@pam").unwrap().enabled = false;
    assert_eq!(as_user(&nobody, ticket, "", "GET", "/nodes").await.status, 401);
    sim.stop().await;
}

#[tokio::test]
async fn reasons_of_8_and_silence_of_9() {
    let sim = Sim::start(demo()).await.unwrap();
    let secret = sim.token("writ@pve!expired");
    for (token, reason) in [
        ("writ@pve!nosuch=x", "no such token 'nosuch' for user 'writ@pve'"),
        ("writ@nope!act=x", "no such user ('writ@nope')"),
        ("writ@pve!act=x", "invalid token value!"),
        (secret.as_str(), "token 'expired' access expired"),
    ] {
        for (release, wanted) in [(Release::V9, "Authentication failed!"), (Release::V8, reason)] {
            sim.world().lock().unwrap().set_release(release);
            let refused = Pve::with(&sim, token).get("/version").await;
            assert_eq!((refused.line(), refused.text.as_str()), ((401, wanted), ""));
            assert_eq!(Pve::with(&sim, "").get("/version").await.reason, "No ticket");
        }
    }
    let node = Pve::of(&sim).get("/nodes/pve1/status").await.body["data"].clone();
    assert_eq!(node["pveversion"], "pve-manager/8.4.14/008f2713b0a1b2c3");
    assert_eq!(node["memory"].get("available"), None::<&Value>);
    assert_eq!(Pve::of(&sim).get("/version").await.body["data"]["version"], "8.4.14");
    let report = Pve::with(&sim, &sim.tokens().0);
    let rows = report.get("/cluster/resources").await.body["data"].clone();
    let kinds: Vec<&str> = rows.as_array().unwrap().iter().map(|r| r["type"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"sdn") && !kinds.contains(&"network"), "{kinds:?}");
    assert!(rows.as_array().unwrap().iter().all(|r| r.get("memhost").is_none()));
    sim.stop().await;
}
