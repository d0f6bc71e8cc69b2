//! What each kind does, in plain words, with the side effects that its name does not tell; and every
//! parameter. One renderer per kind, each takes its parameters apart whole.

mod data;
mod guest;
mod host;

use authz::order::{Params, Preconditions};

/// Label and value.
pub(super) type Rows = Vec<(&'static str, String)>;

/// The rows of the order's kind: what it does, what else happens, its parameters.
pub(super) fn kind(params: &Params, pre: &Preconditions, rows: &mut Rows) {
    match params {
        Params::GuestStart(params) => guest::start(params, rows),
        Params::SnapshotCreate(params) => data::snapshot_create(params, rows),
        Params::BackupCreate(params) => data::backup_create(params, rows),
        Params::GuestTag(params) => guest::tag(params, rows),
        Params::GuestGrow(params) => data::grow(params, rows),
        Params::GuestCreate(params) => guest::create(params, rows),
        Params::TemplateDownload(params) => host::template_download(params, rows),
        Params::GuestResume(params) => guest::resume(params, pre, rows),
        Params::GuestShutdown(params) => guest::shutdown(params, rows),
        Params::GuestStop(params) => guest::stop(params, rows),
        Params::GuestReboot(params) => guest::reboot(params, rows),
        Params::GuestSuspend(params) => guest::suspend(params, rows),
        Params::GuestConfig(params) => guest::config(params, rows),
        Params::GuestResize(params) => guest::resize(params, rows),
        Params::DiskMove(params) => data::disk_move(params, rows),
        Params::SnapshotRollback(params) => data::rollback(params, pre, rows),
        Params::SnapshotDelete(params) => data::snapshot_delete(params, pre, rows),
        Params::BackupDelete(params) => data::backup_delete(params, rows),
        Params::BackupProtect(params) => data::backup_protect(params, rows),
        Params::BackupPrune(params) => data::backup_prune(params, rows),
        Params::GuestRestoreOver(params) => data::restore_over(params, pre, rows),
        Params::GuestDestroy(params) => data::destroy(params, pre, rows),
        Params::DiskDetach(params) => data::detach(params, rows),
        Params::VolumeDelete(params) => data::volume_delete(params, rows),
        Params::StorageAdd(params) => host::storage_add(params, rows),
        Params::StorageRemove(params) => host::storage_remove(params, rows),
        Params::UsbMount(params) => host::mount(params, rows),
        Params::UsbUnmount(params) => host::unmount(params, rows),
        Params::PlanApprove(params) => host::plan_approve(params, rows),
        Params::JobRun(params) => host::job(params, rows),
        Params::SessionOpen(params) => host::session(params, rows),
        Params::HostRebind(params) => host::rebind(params, rows),
        Params::LogReanchor(params) => host::reanchor(params, rows),
        Params::AgentUpdate(params) => host::update(params, rows),
        Params::GuestAdopt(params) => guest::adopt(params, rows),
        Params::GuestRelease(params) => guest::release(params, rows),
    }
}

fn effect(rows: &mut Rows, what: impl Into<String>) {
    rows.push(("effect", what.into()));
}

/// What happens besides, and would surprise.
fn also(rows: &mut Rows, what: impl Into<String>) {
    rows.push(("also", what.into()));
}

/// One sentence or the other.
fn either(flag: bool, yes: &str, no: &str) -> String {
    if flag { yes.to_owned() } else { no.to_owned() }
}

fn started(start: bool) -> String {
    either(start, "started afterwards", "not started afterwards")
}

fn or_none<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
