//! Frames about scripts, sessions and questions: results that are kept, tunnels and questions that are
//! answered. A frame about a tunnel or a question of another channel, or of none, is noted and ignored.

use authz::{Event, PublicKey, Receipt};
use protocol::ask::Reply;
use protocol::frame::HubFrame;
use protocol::job::MAX_SEALED_RESULT;
use protocol::text::SafeText;
use protocol::{Sha256, Signed, TunnelId};

use super::session::{End, Reader, refuse};
use super::writer::Out;
use crate::questions::Answered;
use crate::store::{Host, ResultStored};
use crate::tunnel::{HostAnswer, Origin};

impl Reader {
    pub(super) async fn job_result(&self, host: &Host, op: Sha256, sealed: &[u8]) -> Result<(), End> {
        let host_id = &host.host_id;
        if !(1..=MAX_SEALED_RESULT).contains(&sealed.len()) {
            // Not the end of the channel: the host would send it again on the next one, for ever.
            let problem =
                format!("the host sent a result of {} bytes, which the hub does not take", sealed.len());
            tracing::warn!(host = %host_id, %op, size = sealed.len(), "a result of a wrong size was not kept");
            let known = self.app.store.order_problem(host_id, &op, &problem).await?;
            self.order_event(host, &op, known);
            return Ok(());
        }
        match self.app.store.put_result(host_id, &op, sealed, self.app.now()).await? {
            // Without an answer the host keeps it; perhaps the right hub comes one day.
            ResultStored::UnknownOrder => {
                tracing::warn!(host = %host_id, %op, "a result of an order that this hub does not know");
                return Ok(());
            }
            ResultStored::New => {
                tracing::info!(host = %host_id, %op, size = sealed.len(), "result of a script stored");
                self.order_event(host, &op, true);
            }
            ResultStored::Kept => {}
        }
        self.answer(Out::Frame(HubFrame::JobResultStored { op }))
    }

    /// The order of a tunnel that this channel may speak about.
    fn tunnel_order(&self, origin: Origin, tunnel: &TunnelId, frame: &'static str) -> Option<Sha256> {
        let op = self.app.tunnels.order(tunnel, origin);
        if op.is_none() {
            tracing::info!(host = %origin.host_id, %tunnel, frame, "a frame about a tunnel that this channel does not have");
        }
        op
    }

    pub(super) fn tunnel_ready(&self, origin: Origin, key: &PublicKey, tunnel: &TunnelId, receipt: Signed) {
        let Some(op) = self.tunnel_order(origin, tunnel, "ready") else { return };
        let good = Receipt::verify(&receipt, &origin.host_id, key).is_ok_and(
            |receipt| matches!(receipt.event, Event::SessionReady { op: about, .. } if about == op),
        );
        let answer = if good { HostAnswer::Ready(receipt) } else { self.not_signed(origin, tunnel) };
        self.tunnel_answer(origin, tunnel, answer);
    }

    pub(super) async fn tunnel_error(
        &self,
        origin: Origin,
        key: &PublicKey,
        tunnel: &TunnelId,
        receipt: Option<Signed>,
        problem: Option<&str>,
    ) -> Result<(), End> {
        let Some(op) = self.tunnel_order(origin, tunnel, "error") else { return Ok(()) };
        let answer = match receipt {
            None => HostAnswer::Trouble(SafeText::sanitize(problem.unwrap_or("it gave no reason"))),
            Some(signed) => match Receipt::verify(&signed, &origin.host_id, key) {
                Ok(Receipt { event: Event::Order { op: about, .. }, entry, .. }) if about == op => {
                    // What stands in the log comes with the log.
                    if entry.is_none() {
                        self.app.store.add_refusal(&origin.host_id, &op, &signed).await?;
                        self.app.live.order_changed(&origin.host_id);
                    }
                    HostAnswer::Refused(signed)
                }
                _ => self.not_signed(origin, tunnel),
            },
        };
        self.tunnel_answer(origin, tunnel, answer);
        Ok(())
    }

    pub(super) fn tunnel_close(&self, origin: Origin, tunnel: &TunnelId, why: &str) {
        if self.tunnel_order(origin, tunnel, "close").is_some() {
            self.app.tunnels.closed_by_host(tunnel, origin, SafeText::sanitize(why));
        }
    }

    /// The warden's answer goes to whoever asked, unread: only what the host signed counts, and only with
    /// the operator's tool.
    pub(super) fn reply(&self, origin: Origin, id: u64, reply: Reply) -> Result<(), End> {
        if !reply.is_bounded() {
            return Err(refuse("an answer to a question is too long"));
        }
        match self.app.questions.answer(id, origin, reply) {
            Answered::Passed => {}
            Answered::Nobody => {
                tracing::debug!(host = %origin.host_id, id, "an answer to a question that nobody waits for");
            }
        }
        Ok(())
    }

    fn tunnel_answer(&self, origin: Origin, tunnel: &TunnelId, answer: HostAnswer) {
        if !self.app.tunnels.answer(tunnel, origin, answer) {
            tracing::info!(host = %origin.host_id, %tunnel, "a second answer about one tunnel");
        }
    }

    fn not_signed(&self, origin: Origin, tunnel: &TunnelId) -> HostAnswer {
        tracing::warn!(host = %origin.host_id, %tunnel, "an answer about a tunnel is not signed by the host");
        HostAnswer::Trouble(SafeText::sanitize(
            "its answer is not a receipt for this order signed with the host key: do not trust this host",
        ))
    }
}
