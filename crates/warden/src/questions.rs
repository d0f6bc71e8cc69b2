//! Questions that change nothing: how is the world, and what would an order do?

use authz::RefusalCode;
use authz::world::Refused;
use protocol::ask::{Look, Question, Reply};
use protocol::local::WardenAnswer;

use crate::warden::Warden;
use crate::world::{self, Wanted, kind_of};

/// Answers one.
pub async fn answer(warden: &Warden, question: Question) -> WardenAnswer {
    let reply = match question {
        Question::Look(look) => self::look(warden, &look).await,
        Question::Plan { draft } => warden.plan(&draft).await.map(|plan| Reply::Plan { plan }),
    };
    let reply = reply.unwrap_or_else(|(code, why)| {
        tracing::info!(%code, why, "a question was not answered");
        Reply::Refused { code: code.to_string(), why }
    });
    WardenAnswer::Answered { reply }
}

async fn look(warden: &Warden, look: &Look) -> Result<Reply, Refused> {
    if !look.is_bounded() {
        return Err((RefusalCode::BadOrder, "the question names more than can be looked at".into()));
    }
    let proxmox = |error: proxmox_client::ApiError| (RefusalCode::Proxmox, error.to_string());
    let guest = match look.guest {
        Some(vmid) => match kind_of(&warden.client, vmid).await.map_err(proxmox)? {
            Some(kind) => Some((kind, vmid)),
            None => {
                return Err((RefusalCode::Precondition, format!("there is no guest {vmid} on this node")));
            }
        },
        None => None,
    };
    let (mut world, _) = world::read(&warden.near(), &Wanted::of_look(look, guest)).await.map_err(proxmox)?;
    warden.recognize(&mut world, look.guest)?;
    let json = serde_json::to_vec(&world)
        .map_err(|error| (RefusalCode::Proxmox, format!("the world cannot be written down: {error}")))?;
    // Two thirds of a frame, because of base64.
    if json.len() > protocol::local::MAX_FRAME / 2 {
        return Err((RefusalCode::Proxmox, "there is more to see than fits an answer: ask for less".into()));
    }
    Ok(Reply::World { json: json.into() })
}
