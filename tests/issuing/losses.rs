//! The API server is away, the record is lost, the cluster is lost: nothing is, and nothing is doubled.

use grantsmith_authforge::fake::CallKind;
use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack, until};
use kube::api::DeleteParams;

use super::{bought, live, mailed, realm};

#[tokio::test(flavor = "multi_thread")]
async fn purchases_outlast_an_api_server_that_is_away() {
    let stack = Stack::plan(Shape::Cluster).alone().await.start().await;
    bought(&stack, "before@example.com").await;
    realm(&stack).cluster.stop_api_server();
    let mut sessions = Vec::new();
    for number in 0..5 {
        // Answered 2xx, or this would not come back.
        sessions.push(stack.buy(order().by(&format!("buyer{number}@example.com"))).await.session);
    }
    for session in &sessions {
        until("a grant that says why it waits", async || {
            let grant = stack.grant(session).await?;
            let fix = grant["fix"].as_str()?;
            (grant["state"] == "ISSUING" && fix.contains("the cluster could not be asked")).then_some(())
        })
        .await;
    }
    assert_eq!(stack.page(&sessions[0]).await.1["status"], "pending");
    assert_eq!(stack.ready().await, 200, "purchases can be accepted");
    realm(&stack).cluster.start_api_server().await;
    for session in &sessions {
        mailed(&stack, session).await;
        assert_eq!(stack.keys(session).await, live(&stack, session));
    }
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 6);
    assert_eq!(stack.mail.as_ref().expect("mail").mails().await.len(), 6);
    stack.assert_promise();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_lost_recognises_what_the_cluster_has() {
    let mut stack = Stack::plan(Shape::Cluster).start().await;
    let mut sold = Vec::new();
    for number in 0..3 {
        let bought = stack.buy(order().by(&format!("buyer{number}@example.com"))).await;
        let name = mailed(&stack, &bought.session).await;
        // That it was mailed is told to the cluster, for a record that knows nothing of it.
        realm(&stack)
            .until_grant(&name, "to be known as delivered", |grant| {
                grant
                    .metadata
                    .annotations
                    .as_ref()
                    .is_some_and(|a| a.contains_key("grantsmith.dev/delivered"))
            })
            .await;
        sold.push((stack.keys(&bought.session).await, bought));
    }
    stack.kill_back().await;
    for entry in std::fs::read_dir(stack.folder.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.starts_with("grantsmith.db") && !name.ends_with(".tokens") {
            std::fs::remove_file(path).expect("it is deleted");
        }
    }
    stack.up_back().await;
    for (keys, bought) in &sold {
        stack.deliver_all(&bought.events).await;
        assert_eq!(stack.keys(&bought.session).await, *keys, "its page shows the same key");
    }
    // A later purchase has its mail, so whatever the old ones would have caused has happened by now.
    bought(&stack, "new@example.com").await;
    assert_eq!(stack.mail.as_ref().expect("mail").mails().await.len(), 4, "nobody is mailed twice");
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 4, "nothing is minted");
    stack.assert_promise();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_lost_is_rebuilt_from_the_record() {
    let mut stack = Stack::plan(Shape::Cluster).alone().await.start().await;
    let mut sold = Vec::new();
    for number in 0..3 {
        let (session, name) = bought(&stack, &format!("buyer{number}@example.com")).await;
        sold.push((session.clone(), name, stack.keys(&session).await));
    }
    // The definition goes, and with it every grant and its Secret; whoever worked there is gone too.
    drop(stack.operator.take());
    let cluster = realm(&stack).cluster;
    cluster.undefine_grants().await;
    for (_, name, _) in &sold {
        let secret = format!("{name}-license");
        // Kubernetes removes what nobody owns any more in its own time.
        drop(realm(&stack).secrets().delete(&secret, &DeleteParams::default()).await);
        until("the Secret to go", async || {
            realm(&stack).secrets().get_opt(&secret).await.ok()?.is_none().then_some(())
        })
        .await;
    }
    assert_eq!(live(&stack, &sold[0].0), sold[0].2, "a lost cluster revokes nothing");
    cluster.define_grants().await;
    stack.up_operator().await;
    for (session, name, keys) in &sold {
        assert_eq!(vec![realm(&stack).until_key(name).await], *keys, "{session}: the key is adopted");
        assert_eq!(stack.keys(session).await, *keys);
    }
    bought(&stack, "new@example.com").await;
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 4, "nothing is minted");
    assert_eq!(stack.mail.as_ref().expect("mail").mails().await.len(), 4, "nobody is mailed twice");
    stack.assert_promise();
}
