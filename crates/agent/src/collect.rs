//! Collects a [`HostReport`]. Whatever cannot be read is unknown, with the reason, and only that
//! part: a refused storage list says nothing about the guests.

use std::cmp::Ordering;

use futures_util::{StreamExt as _, stream};
use protocol::report::{
    CertificateReport, GuestReport, HostReport, Known, NodeReport, StorageReport, Usage, WardenReport,
};
use protocol::text::printable;
use proxmox_client::{ApiError, CertificateInfo, Client, GuestStatus, NodeStatus, StorageStatus, ThinPool};

use crate::identity::{config_report, kind_of, snapshot_refs, state_of, usage_of, vmid_of};
use crate::warden::Warden;
use crate::{VERSION, boot_id, unix_now};

/// Requests to Proxmox at one time; its workers are few.
const IN_FLIGHT: usize = 2;

/// Reads Proxmox and the warden.
#[derive(Debug, Clone)]
pub struct Collector {
    client: Client,
    warden: Option<Warden>,
}

impl Collector {
    /// Reads through that client, and asks that warden, if there is one.
    pub fn new(client: Client, warden: Option<Warden>) -> Self {
        Self { client, warden }
    }

    /// One report. Never fails: what could not be read is unknown.
    pub async fn collect(&self) -> HostReport {
        let warden = self.warden().await;
        let node = self.node().await;
        let certificate = self.certificate().await;
        let guests = self.guests().await;
        let storages = self.storages().await;
        HostReport {
            v: 1,
            collected_at: unix_now(),
            boot_id: boot_id(),
            agent_version: VERSION.to_owned(),
            warden,
            node,
            certificate,
            guests,
            storages,
        }
    }

    async fn warden(&self) -> Known<WardenReport> {
        let Some(warden) = &self.warden else {
            return Known::Unknown("no warden is configured".to_owned());
        };
        match warden.status().await {
            Err(error) => Known::Unknown(crate::sentence(&error)),
            Ok(status) => match status.enrolled {
                None => Known::Unknown("the warden is not enrolled: run `writ-agent enroll`".to_owned()),
                Some(enrolled) => Known::Known(WardenReport {
                    version: status.version,
                    host_key: enrolled.host_key.fingerprint(),
                    policy_version: enrolled.policy_version,
                    policy: enrolled.policy,
                    log_size: status.log_size,
                    closed: status.closed,
                }),
            },
        }
    }

    async fn node(&self) -> Known<NodeReport> {
        let reading = async {
            let name = self.client.node().await?.to_string();
            let status = self.client.node_status().await?;
            Ok::<_, ApiError>((name, status))
        };
        match reading.await {
            Err(error) => unknown(&error),
            Ok((name, status)) => {
                let offset = match self.client.node_time().await {
                    // Both clocks are one on a real host; a difference means that the API is
                    // another machine's or that it hangs.
                    Ok(time) => Known::Known(offset(time.time, unix_now())),
                    Err(error) => unknown(&error),
                };
                match node_report(name, status, offset) {
                    Ok(report) => Known::Known(report),
                    Err(what) => Known::Unknown(format!(
                        "Proxmox left out {what}: has the token the role PVEAuditor on /?"
                    )),
                }
            }
        }
    }

    async fn certificate(&self) -> Known<CertificateReport> {
        match self.client.certificates_info().await {
            Err(error) => unknown(&error),
            Ok(list) => served_certificate(&list).map_or_else(
                || Known::Unknown("Proxmox lists no certificate of its API".to_owned()),
                Known::Known,
            ),
        }
    }

    async fn guests(&self) -> Known<Vec<GuestReport>> {
        let mut found = Vec::new();
        for kind in [proxmox_client::GuestKind::Qemu, proxmox_client::GuestKind::Lxc] {
            match self.client.guests(kind).await {
                Ok(guests) => found.extend(guests.into_iter().map(|guest| (kind, guest))),
                // Half a list would look like guests that are gone.
                Err(error) => return unknown(&error),
            }
        }
        found.sort_by_key(|(_, guest)| guest.vmid);
        let reports: Vec<Result<GuestReport, String>> = stream::iter(found)
            .map(|(kind, guest)| self.guest(kind, guest))
            .buffered(IN_FLIGHT)
            .collect()
            .await;
        match reports.into_iter().collect() {
            Ok(guests) => Known::Known(guests),
            Err(why) => Known::Unknown(why),
        }
    }

    async fn guest(
        &self,
        kind: proxmox_client::GuestKind,
        status: GuestStatus,
    ) -> Result<GuestReport, String> {
        let config = self.client.guest_config(kind, status.vmid).await;
        let snapshots = match self.client.snapshots(kind, status.vmid).await {
            Ok(list) => snapshot_refs(&list).map_or_else(Known::Unknown, Known::Known),
            Err(error) => unknown(&error),
        };
        // The warden compares with the configuration, where the name may be absent.
        let name = match &config {
            Ok(config) => config.name().unwrap_or_default().to_owned(),
            Err(_) => status.name.clone().unwrap_or_default(),
        };
        let state = state_of(&status.status);
        let running = state == protocol::RunState::Running;
        Ok(GuestReport {
            vmid: vmid_of(status.vmid).map_err(|error| error.to_string())?,
            kind: kind_of(kind),
            name,
            state,
            uptime_s: status.uptime.filter(|_| running),
            memory: usage_of(status.mem, status.maxmem),
            config: match config {
                Ok(config) => Known::Known(config_report(&config)),
                Err(error) => unknown(&error),
            },
            snapshots,
        })
    }

    async fn storages(&self) -> Known<Vec<StorageReport>> {
        let list = match self.client.storage_list().await {
            Ok(list) => list,
            Err(error) => return unknown(&error),
        };
        let thin = list.iter().any(|storage| storage.plugin.as_deref() == Some("lvmthin"));
        let pools = match thin {
            true => self.client.lvmthin().await.map_err(|error| reason(&error)),
            false => Ok(Vec::new()),
        };
        let mut reports: Vec<StorageReport> =
            list.iter().map(|storage| storage_report(storage, pools.as_deref())).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        Known::Known(reports)
    }
}

fn reason(error: &ApiError) -> String {
    printable(&error.to_string())
}

fn unknown<T>(error: &ApiError) -> Known<T> {
    Known::Unknown(reason(error))
}

fn offset(api: u64, local: u64) -> i64 {
    let (api, local) = (i64::try_from(api).unwrap_or(i64::MAX), i64::try_from(local).unwrap_or(i64::MAX));
    api.saturating_sub(local)
}

/// A node's report, or the name of what is missing.
fn node_report(
    name: String,
    status: NodeStatus,
    clock_offset_s: Known<i64>,
) -> Result<NodeReport, &'static str> {
    Ok(NodeReport {
        name,
        pve_version: status.pveversion.ok_or("its version")?,
        kernel: status.current_kernel.release.or(status.kversion).ok_or("the kernel's version")?,
        uptime_s: status.uptime.ok_or("the uptime")?,
        cpu: status.cpu.ok_or("the CPU use")?,
        cpus: status.cpuinfo.cpus.ok_or("the number of CPUs")?,
        load: status.loadavg,
        memory: usage_of(status.memory.used, status.memory.total).ok_or("the memory use")?,
        rootfs: usage_of(status.rootfs.used, status.rootfs.total).ok_or("the use of the root file system")?,
        // A node without swap may leave it out.
        swap: usage_of(status.swap.used, status.swap.total).unwrap_or(Usage { used: 0, total: 0 }),
        clock_offset_s,
    })
}

/// pveproxy serves its own certificate when there is one, otherwise the node's.
fn served_certificate(list: &[CertificateInfo]) -> Option<CertificateReport> {
    ["pveproxy-ssl.pem", "pve-ssl.pem"].iter().find_map(|wanted| {
        let info = list.iter().find(|info| info.filename.as_deref() == Some(*wanted))?;
        Some(CertificateReport {
            filename: (*wanted).to_owned(),
            fingerprint: info.fingerprint.clone()?,
            not_after: info.notafter?,
        })
    })
}

fn storage_report(storage: &StorageStatus, pools: Result<&[ThinPool], &String>) -> StorageReport {
    let kind = storage.plugin.clone().unwrap_or_else(|| "unknown".to_owned());
    let active = storage.active == Some(true);
    let usage = match (active, usage_of(storage.used, storage.total).filter(|usage| usage.total > 0)) {
        (true, Some(usage)) => Known::Known(usage),
        (true, None) => Known::Unknown("Proxmox gives no numbers".to_owned()),
        (false, _) => Known::Unknown("the storage is not active".to_owned()),
    };
    let metadata = (kind == "lvmthin").then(|| match pools {
        Err(why) => Known::Unknown(why.clone()),
        Ok(pools) => metadata_usage(storage, pools),
    });
    StorageReport { name: storage.storage.clone(), kind, active, usage, metadata }
}

/// A storage does not say on which pool it is; its size does. Of several pools of that size the
/// fullest counts.
fn metadata_usage(storage: &StorageStatus, pools: &[ThinPool]) -> Known<Usage> {
    let mut worst: Option<Usage> = None;
    for pool in pools.iter().filter(|pool| pool.lv_size.is_some() && pool.lv_size == storage.total) {
        let usage = usage_of(pool.metadata_used, pool.metadata_size).filter(|usage| usage.total > 0);
        let Some(usage) = usage else {
            return Known::Unknown(format!("Proxmox gives no metadata numbers of thin pool {}", pool.lv));
        };
        if worst.is_none_or(|worst| fuller(&usage, &worst) == Ordering::Greater) {
            worst = Some(usage);
        }
    }
    worst.map_or_else(
        || Known::Unknown(format!("no thin pool has the size of storage {}", storage.storage)),
        Known::Known,
    )
}

fn fuller(a: &Usage, b: &Usage) -> Ordering {
    // a.used / a.total against b.used / b.total, without division.
    (u128::from(a.used) * u128::from(b.total)).cmp(&(u128::from(b.used) * u128::from(a.total)))
}

#[cfg(test)]
mod tests;
