//! A new revision of a filter, and what makes a proxy give it up.

use std::sync::Arc;

use outrigger_config::{Guardrails, Rollout, RolloutShare};
use outrigger_proto::pb::outrigger::filters::http::wasm::v1 as own;

use super::super::common::duration;
use super::{REVISION_BYTES_MAX, revision};
use crate::Diagnostics;

/// The share that is all streams.
const ALL: u32 = 10_000;

pub(super) fn rollout(filter: &Arc<str>, proto: &own::Rollout, d: &mut Diagnostics) -> Option<Rollout> {
    if proto.id.len() > REVISION_BYTES_MAX || (proto.id.is_empty() && !proto.shadow_only) {
        d.at("id", |d| d.error(format!("is not a name of 1 to {REVISION_BYTES_MAX} bytes")));
    }
    let candidate = d.at("candidate", |d| {
        let Some(candidate) = &proto.candidate else {
            d.error("is required");
            return None;
        };
        if candidate.rollout.is_some() {
            d.at("rollout", |d| d.error("a rollout has no rollout of its own"));
        }
        revision(filter, candidate, d)
    });
    if proto.share > ALL {
        d.at("share", |d| d.error(format!("is more than {ALL} hundredths of a percent")));
    }
    if proto.shadow_only && !proto.shadow {
        d.at("shadow_only", |d| d.error("is set without shadow"));
    }
    let share = match (proto.shadow, proto.shadow_only) {
        (true, true) => RolloutShare::ShadowOnly,
        (true, false) => RolloutShare::Shadow,
        (false, _) => RolloutShare::Of10k(proto.share),
    };
    let guardrails = d.at("guardrails", |d| guardrails(proto.guardrails.as_ref(), d));
    let mut candidate = candidate?;
    Arc::make_mut(&mut candidate.vm).shadow = proto.shadow;
    Some(Rollout { id: Arc::from(proto.id.as_str()), candidate: Arc::new(candidate), share, guardrails })
}

fn guardrails(proto: Option<&own::Guardrails>, d: &mut Diagnostics) -> Guardrails {
    const MILLION: f64 = 1_000_000.0;
    let Some(proto) = proto else { return Guardrails::default() };
    let rate = |rate: Option<f64>, field: &'static str, d: &mut Diagnostics| {
        let rate = rate?;
        if !(0.0..=1.0).contains(&rate) {
            d.at(field, |d| d.error("is not a share from 0 to 1"));
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
        Some((rate * MILLION).round() as u32)
    };
    Guardrails {
        trap_rate: rate(proto.trap_rate, "trap_rate", d),
        error_rate: rate(proto.error_rate, "error_rate", d),
        added_latency: duration(proto.added_latency.as_ref(), "added_latency", d),
    }
}
