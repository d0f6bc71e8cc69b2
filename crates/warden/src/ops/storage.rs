//! Storages in Proxmox's configuration, and templates on them. What is behind a storage is named by an identity
//! that a reused name does not have; it is read from the host itself, right before too.

use authz::order::{Backing, ContentType, StorageAddParams, StorageRemoveParams, TemplateParams};
use protocol::Sha256;
use protocol::refs::{StorageId, VolumeId};
use protocol::report::Known;
use proxmox_client::{ApiError, Client, Content, NewStorage, StorageBacking, Upid};
use serde::{Deserialize, Serialize};

use super::backup::client_storage;
use super::call::{Answers, Call, Judged, Sent, TaskName};
use super::create::file_sha256;
use super::destroy::still_listed;
use super::rights::{self, Right};
use super::{Action, Program};
use crate::world::{Near, backing};

/// Something about a storage as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageCall {
    /// Which.
    pub storage: StorageId,
    /// What.
    pub what: StorageWhat,
}

/// What is done with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum StorageWhat {
    /// It is added.
    Add {
        /// What is behind it.
        backing: Backing,
        /// What it keeps.
        content: Vec<ContentType>,
    },
    /// It is removed; its data stays.
    Remove {
        /// What is behind it.
        backing: Backing,
    },
    /// A template is downloaded to it.
    Template {
        /// Its file name.
        template: String,
        /// What must be in it.
        sha256: Sha256,
    },
}

fn one(storage: &StorageId, what: StorageWhat) -> Program {
    let call = Call::Storage(StorageCall { storage: storage.clone(), what });
    Program { actions: vec![Action::free(call)] }
}

/// Of `storage.add`.
pub(super) fn add(params: &StorageAddParams) -> Program {
    let (backing, content) = (params.backing.clone(), params.content.clone());
    one(&params.storage, StorageWhat::Add { backing, content })
}

/// Of `storage.remove`.
pub(super) fn remove(params: &StorageRemoveParams) -> Program {
    one(&params.storage, StorageWhat::Remove { backing: params.backing.clone() })
}

/// Of `template.download`.
pub(super) fn template(params: &TemplateParams) -> Program {
    let (template, sha256) = (params.template.to_string(), params.sha256);
    one(&params.storage, StorageWhat::Template { template, sha256 })
}

fn kept(content: ContentType) -> Content {
    match content {
        ContentType::Images => Content::Images,
        ContentType::Rootdir => Content::Rootdir,
        ContentType::Iso => Content::Iso,
        ContentType::Vztmpl => Content::Template,
        ContentType::Backup => Content::Backup,
        ContentType::Import => Content::Import,
    }
}

/// As Proxmox is told.
fn told(backing: &Backing) -> StorageBacking {
    match backing {
        Backing::Dir { path, .. } => StorageBacking::Dir { path: path.to_string() },
        Backing::ZfsPool { pool, .. } => StorageBacking::ZfsPool { pool: pool.to_string() },
        Backing::LvmThin { vg, pool, .. } => {
            StorageBacking::LvmThin { vg: vg.to_string(), pool: pool.to_string() }
        }
    }
}

impl StorageCall {
    fn volume(&self, template: &str) -> Option<VolumeId> {
        format!("{}:vztmpl/{template}", self.storage).parse().ok()
    }
}

impl Answers for StorageCall {
    fn line(&self) -> String {
        let storage = &self.storage;
        match &self.what {
            StorageWhat::Add { backing, content } => {
                let content: Vec<_> = content.iter().map(|content| kept(*content).as_str()).collect();
                format!("POST storage {storage} {} content={}", told(backing), content.join(","))
            }
            StorageWhat::Remove { .. } => format!("DELETE storage {storage}"),
            StorageWhat::Template { template, .. } => {
                format!("POST aplinfo storage={storage} template={template}")
            }
        }
    }

    fn task(&self) -> Option<TaskName> {
        match &self.what {
            StorageWhat::Add { .. } | StorageWhat::Remove { .. } => None,
            StorageWhat::Template { .. } => Some(TaskName { types: vec!["download"], id: String::new() }),
        }
    }

    fn rights(&self) -> Vec<Right> {
        match &self.what {
            StorageWhat::Add { .. } | StorageWhat::Remove { .. } => {
                vec![rights::on("/storage", "Datastore.Allocate")]
            }
            StorageWhat::Template { .. } => {
                vec![rights::on_storage(&self.storage, "Datastore.AllocateTemplate")]
            }
        }
    }

    async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        let name = client_storage(&self.storage);
        match &self.what {
            StorageWhat::Add { backing, content } => {
                let content = content.iter().map(|content| kept(*content)).collect();
                client.storage_add(&NewStorage::new(name, told(backing), content)).await?;
                Ok(Sent::AtOnce)
            }
            StorageWhat::Remove { .. } => {
                client.storage_remove(&name).await?;
                Ok(Sent::AtOnce)
            }
            StorageWhat::Template { template, .. } => {
                Ok(client.appliance_download(&name, template).await?.into())
            }
        }
    }

    async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        let storage = &self.storage;
        if let StorageWhat::Template { template, .. } = &self.what {
            let Some(volume) = self.volume(template) else {
                return Ok(Judged::Otherwise(format!("{template} is no name of a volume")));
            };
            let there = !still_listed(client, std::slice::from_ref(&volume)).await?.is_empty();
            return Ok(Judged::when(
                there,
                format!("{volume} is {}", if there { "there" } else { "not there" }),
            ));
        }
        let list = client.storage_configs().await?;
        let found = list.iter().find(|now| now.storage == storage.as_str());
        Ok(match (&self.what, found) {
            (StorageWhat::Remove { .. }, None) => {
                Judged::Done(format!("storage {storage} is not configured any more"))
            }
            (StorageWhat::Remove { .. }, Some(_)) => {
                Judged::NotDone(format!("storage {storage} is still configured"))
            }
            (_, None) => Judged::NotDone(format!("there is no storage {storage}")),
            (StorageWhat::Add { backing, content }, Some(now)) => {
                let mut wanted: Vec<_> =
                    content.iter().map(|content| kept(*content).as_str().to_owned()).collect();
                wanted.sort_unstable();
                let right = told(backing).is(now) && now.content == wanted;
                if right {
                    Judged::Done(format!("storage {storage} is configured"))
                } else {
                    Judged::Otherwise(format!(
                        "there is a storage {storage}, and it is not the one of the order"
                    ))
                }
            }
            (StorageWhat::Template { .. }, _) => Judged::Otherwise("unread".to_owned()),
        })
    }

    async fn ready(&self, near: &Near<'_>) -> Result<(), String> {
        match &self.what {
            StorageWhat::Add { backing: wanted, .. } => match backing::present(near.root, wanted) {
                Known::Known(true) => Ok(()),
                Known::Known(false) => Err("what is to be behind the storage is not there".to_owned()),
                Known::Unknown(why) => Err(format!("what is behind the storage could not be read: {why}")),
            },
            StorageWhat::Remove { .. } => Ok(()),
            StorageWhat::Template { template, .. } => {
                let volume =
                    self.volume(template).ok_or_else(|| format!("{template} is no name of a volume"))?;
                match still_listed(near.client, &[volume]).await {
                    Ok(list) if list.is_empty() => {}
                    Ok(_) => return Err(format!("{template} is on {} already", self.storage)),
                    Err(error) => {
                        return Err(format!("storage {} could not be listed: {error}", self.storage));
                    }
                }
                super::create::room(near.client, &self.storage, 1).await
            }
        }
    }

    async fn judge_task(&self, near: &Near<'_>, _task: Option<&Upid>) -> Result<Judged, ApiError> {
        let judged = self.judge(near.client).await?;
        let StorageWhat::Template { template, sha256 } = &self.what else { return Ok(judged) };
        let (Judged::Done(seen), Some(volume)) = (&judged, self.volume(template)) else { return Ok(judged) };
        Ok(match file_sha256(near, &volume).await {
            Ok(found) if found == *sha256 => Judged::Done(format!("{seen}, with the SHA-256 of the order")),
            Ok(found) => {
                Judged::Otherwise(format!("{volume} is there, and its SHA-256 is {found}: do not use it"))
            }
            Err(why) => Judged::Otherwise(format!("{volume} is there; {why}")),
        })
    }
}
