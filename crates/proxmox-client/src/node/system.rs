//! The host itself: services, packages, network, hardware, subscription.

use serde::Deserialize;

use crate::catalog::{Call, Calls, Kind, Param, object, rows};
use crate::client::Client;
use crate::value::lenient;
use crate::wire::error::ApiError;

static SERVICES: Call<Vec<Service>> =
    Call::get("services", "/nodes/{node}/services", rows).needs(&["Sys.Audit"]);
static SERVICE: Call<Service> =
    Call::get("service", "/nodes/{node}/services/{service}/state", object).needs(&["Sys.Audit"]);
static UPDATES: Call<Vec<Package>> =
    Call::get("apt updates", "/nodes/{node}/apt/update", rows).long().beyond(&["Sys.Modify"]);
static VERSIONS: Call<Vec<Package>> =
    Call::get("apt versions", "/nodes/{node}/apt/versions", rows).needs(&["Sys.Audit"]);
static NETWORK: Call<Vec<Interface>> = Call::get("network", "/nodes/{node}/network", rows).params(&[Param {
    name: "type",
    kind: Kind::Word(&[
        "bridge",
        "bond",
        "eth",
        "alias",
        "vlan",
        "OVSBridge",
        "OVSBond",
        "OVSPort",
        "OVSIntPort",
        "vnet",
        "any_bridge",
        "any_local_bridge",
    ]),
}]);
static DNS: Call<Dns> = Call::get("dns", "/nodes/{node}/dns", object).needs(&["Sys.Audit"]);
static USB: Call<Vec<UsbDevice>> =
    Call::get("usb devices", "/nodes/{node}/hardware/usb", rows).beyond(&["Sys.Modify"]);
static SUBSCRIPTION: Call<Subscription> = Call::get("subscription", "/nodes/{node}/subscription", object);
static NETSTAT: Call<Vec<GuestTraffic>> =
    Call::get("netstat", "/nodes/{node}/netstat", rows).needs(&["Sys.Audit"]);

pub(super) static CALLS: Calls =
    &[&SERVICES, &SERVICE, &UPDATES, &VERSIONS, &NETWORK, &DNS, &USB, &SUBSCRIPTION, &NETSTAT];

/// One entry of `GET /nodes/{node}/services`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Service {
    /// The name to ask with.
    #[serde(default, deserialize_with = "lenient::string")]
    pub service: String,
    /// The unit's name; differs for templates.
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// What it is.
    #[serde(default, deserialize_with = "lenient::text")]
    pub desc: Option<String>,
    /// systemd's sub state: `running`, `exited`, `dead`, `failed`, …
    #[serde(default, deserialize_with = "lenient::text")]
    pub state: Option<String>,
    /// `active`, `inactive`, `failed`, …
    #[serde(default, rename = "active-state", deserialize_with = "lenient::text")]
    pub active_state: Option<String>,
    /// `enabled`, `disabled`, `masked`, `not-found`, …
    #[serde(default, rename = "unit-state", deserialize_with = "lenient::text")]
    pub unit_state: Option<String>,
}

/// A package, of `apt/update` (what can be updated) or `apt/versions` (what Proxmox consists of).
/// Not recorded; fields as the schema has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Package {
    /// Its name.
    #[serde(default, rename = "Package", deserialize_with = "lenient::string")]
    pub package: String,
    /// The version offered, or the installed one in `apt/versions`' newer form.
    #[serde(default, rename = "Version", deserialize_with = "lenient::text")]
    pub version: Option<String>,
    /// The installed version.
    #[serde(default, rename = "OldVersion", deserialize_with = "lenient::text")]
    pub old_version: Option<String>,
    /// In a few words.
    #[serde(default, rename = "Title", deserialize_with = "lenient::text")]
    pub title: Option<String>,
    /// `Proxmox`, `Debian`.
    #[serde(default, rename = "Origin", deserialize_with = "lenient::text")]
    pub origin: Option<String>,
    /// `admin`, `kernel`, …
    #[serde(default, rename = "Section", deserialize_with = "lenient::text")]
    pub section: Option<String>,
    /// `required`, `optional`, …
    #[serde(default, rename = "Priority", deserialize_with = "lenient::text")]
    pub priority: Option<String>,
    /// `amd64`, `all`.
    #[serde(default, rename = "Arch", deserialize_with = "lenient::text")]
    pub arch: Option<String>,
    /// `Installed`, `NotInstalled`, …: `apt/versions` only.
    #[serde(default, rename = "CurrentState", deserialize_with = "lenient::text")]
    pub current_state: Option<String>,
    /// The running kernel: on one entry of `apt/versions`.
    #[serde(default, rename = "RunningKernel", deserialize_with = "lenient::text")]
    pub running_kernel: Option<String>,
    /// The running manager: on one entry of `apt/versions`.
    #[serde(default, rename = "ManagerVersion", deserialize_with = "lenient::text")]
    pub manager_version: Option<String>,
}

/// One entry of `GET /nodes/{node}/network`. Not recorded; fields as the schema has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Interface {
    /// Its name.
    #[serde(default, deserialize_with = "lenient::string")]
    pub iface: String,
    /// `bridge`, `bond`, `eth`, `vlan`, `OVSBridge`, …, `unknown`.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// Whether it is up.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub active: Option<bool>,
    /// Whether it comes up at boot.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub autostart: Option<bool>,
    /// Whether the kernel has it.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub exists: Option<bool>,
    /// `static`, `dhcp`, `manual`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub method: Option<String>,
    /// The same for IPv6.
    #[serde(default, deserialize_with = "lenient::text")]
    pub method6: Option<String>,
    /// Address and prefix.
    #[serde(default, deserialize_with = "lenient::text")]
    pub cidr: Option<String>,
    /// IPv6 address and prefix.
    #[serde(default, deserialize_with = "lenient::text")]
    pub cidr6: Option<String>,
    /// Gateway.
    #[serde(default, deserialize_with = "lenient::text")]
    pub gateway: Option<String>,
    /// IPv6 gateway.
    #[serde(default, deserialize_with = "lenient::text")]
    pub gateway6: Option<String>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub mtu: Option<u64>,
    /// A bridge's ports, blank separated.
    #[serde(default, deserialize_with = "lenient::text")]
    pub bridge_ports: Option<String>,
    /// Whether a bridge tells VLANs apart.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub bridge_vlan_aware: Option<bool>,
    /// A bond's members, blank separated.
    #[serde(default, deserialize_with = "lenient::text")]
    pub slaves: Option<String>,
    /// How a bond shares the load.
    #[serde(default, deserialize_with = "lenient::text")]
    pub bond_mode: Option<String>,
    /// A VLAN's number.
    #[serde(default, rename = "vlan-id", deserialize_with = "lenient::u64")]
    pub vlan_id: Option<u64>,
    /// What a VLAN lies on.
    #[serde(default, rename = "vlan-raw-device", deserialize_with = "lenient::text")]
    pub vlan_raw_device: Option<String>,
    /// A remark.
    #[serde(default, deserialize_with = "lenient::text")]
    pub comments: Option<String>,
}

/// `GET /nodes/{node}/dns`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Dns {
    /// Search domain.
    #[serde(default, deserialize_with = "lenient::text")]
    pub search: Option<String>,
    /// First server.
    #[serde(default, deserialize_with = "lenient::text")]
    pub dns1: Option<String>,
    /// Second server.
    #[serde(default, deserialize_with = "lenient::text")]
    pub dns2: Option<String>,
    /// Third server.
    #[serde(default, deserialize_with = "lenient::text")]
    pub dns3: Option<String>,
}

/// One entry of `GET /nodes/{node}/hardware/usb`. Not recorded; fields as the schema has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct UsbDevice {
    /// Bus.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub busnum: Option<u64>,
    /// Number on the bus.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub devnum: Option<u64>,
    /// Port.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub port: Option<u64>,
    /// Hubs between it and the root.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub level: Option<u64>,
    /// Ports from the root, `1.2`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub usbpath: Option<String>,
    /// USB class; 9 is a hub.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub class: Option<u64>,
    /// Maker, hex.
    #[serde(default, deserialize_with = "lenient::text")]
    pub vendid: Option<String>,
    /// Product, hex.
    #[serde(default, deserialize_with = "lenient::text")]
    pub prodid: Option<String>,
    /// Maker.
    #[serde(default, deserialize_with = "lenient::text")]
    pub manufacturer: Option<String>,
    /// Product.
    #[serde(default, deserialize_with = "lenient::text")]
    pub product: Option<String>,
    /// Serial number.
    #[serde(default, deserialize_with = "lenient::text")]
    pub serial: Option<String>,
    /// Mbit/s.
    #[serde(default, deserialize_with = "lenient::text")]
    pub speed: Option<String>,
}

/// `GET /nodes/{node}/subscription`. The key itself is not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Subscription {
    /// `active`, `notfound`, `new`, `invalid`, `expired`, `suspended`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub status: Option<String>,
    /// In words.
    #[serde(default, deserialize_with = "lenient::text")]
    pub message: Option<String>,
    /// `c`, `b`, `s`, `p`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub level: Option<String>,
    /// What was bought.
    #[serde(default, deserialize_with = "lenient::text")]
    pub productname: Option<String>,
    /// Until when, `YYYY-MM-DD`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub nextduedate: Option<String>,
    /// For how many sockets.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub sockets: Option<u64>,
    /// Last check, seconds since 1970.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub checktime: Option<u64>,
}

/// One entry of `GET /nodes/{node}/netstat`: a guest's network device since it started. Not
/// recorded; the schema names no fields.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct GuestTraffic {
    /// The guest.
    #[serde(default)]
    pub vmid: Option<crate::value::ids::Vmid>,
    /// `net0`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub dev: Option<String>,
    /// Bytes into the guest.
    #[serde(default, rename = "in", deserialize_with = "lenient::u64")]
    pub received: Option<u64>,
    /// Bytes out of the guest.
    #[serde(default, rename = "out", deserialize_with = "lenient::u64")]
    pub sent: Option<u64>,
}

impl Client {
    /// Proxmox's own services and the ones it needs. Needs Sys.Audit on the node.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn services(&self) -> Result<Vec<Service>, ApiError> {
        self.send(SERVICES.at(&[self.node().await?.as_str()])).await
    }

    /// One of the services that [`Client::services`] lists.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn service(&self, name: &str) -> Result<Service, ApiError> {
        self.send(SERVICE.at(&[self.node().await?.as_str(), name])).await
    }

    /// Packages with updates, as of the node's last look. Needs Sys.Modify on the node even to read.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn updates(&self) -> Result<Vec<Package>, ApiError> {
        self.send(UPDATES.at(&[self.node().await?.as_str()])).await
    }

    /// The packages Proxmox consists of, installed or not. Needs Sys.Audit on the node.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn package_versions(&self) -> Result<Vec<Package>, ApiError> {
        self.send(VERSIONS.at(&[self.node().await?.as_str()])).await
    }

    /// Network interfaces, as configured and as they are.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn network(&self) -> Result<Vec<Interface>, ApiError> {
        self.send(NETWORK.at(&[self.node().await?.as_str()])).await
    }

    /// Name servers. Needs Sys.Audit on the node.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn dns(&self) -> Result<Dns, ApiError> {
        self.send(DNS.at(&[self.node().await?.as_str()])).await
    }

    /// USB devices. Needs Sys.Modify on `/` even to read; on the host itself `/sys` tells the same.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn usb_devices(&self) -> Result<Vec<UsbDevice>, ApiError> {
        self.send(USB.at(&[self.node().await?.as_str()])).await
    }

    /// Whether and until when the node has a subscription.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn subscription(&self) -> Result<Subscription, ApiError> {
        self.send(SUBSCRIPTION.at(&[self.node().await?.as_str()])).await
    }

    /// Traffic of the node's guests by network device. Needs Sys.Audit on the node.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn guest_traffic(&self) -> Result<Vec<GuestTraffic>, ApiError> {
        self.send(NETSTAT.at(&[self.node().await?.as_str()])).await
    }
}
