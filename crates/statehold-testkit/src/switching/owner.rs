//! The owner of the stores: leaves one for another, after a loss or in good order, and brings over what was left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use statehold_core::id::MachineId;
use statehold_core::record::Kind;
use statehold_repository::Error;
use statehold_repository::bring_over::{End, Lost, bring_over};
use statehold_repository::replicate::position;
use statehold_repository::switch::{Promotion, fence, promote};

use super::logbook::tree_of;
use super::{ATTEMPTS, Checked, SITES, World, is_fault, surprise};
use crate::invariants::Violation;
use crate::locked;

/// How an owner comes to a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// The first store is lost for good.
    Vanishes,
    /// It cannot be reached by the owner, and machines go on with it for a while.
    CutOff,
    /// It is fenced, and copied to its end.
    Fenced,
}

impl World {
    /// The owner's days.
    pub(super) async fn own(&self) {
        for _ in 0..2 {
            let until =
                self.taken.load(Ordering::Relaxed) + 10 + self.entropy.below(self.steps / 2);
            while self.taken.load(Ordering::Relaxed) < until && !self.is_over() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            if self.is_over() {
                return;
            }
            let switched = Box::pin(self.switch()).await;
            self.settle(switched);
        }
    }

    /// The sites that the log that goes on was copied to, its newest epoch at least.
    async fn copies(&self) -> Checked<Vec<usize>> {
        self.logbook.check().await?;
        let primary = self.primary();
        let newest = self.logbook.state(self.logbook.end(primary));
        let newest = newest.ok_or_else(|| Violation("the log has no state".into()))?;
        let mut copies = Vec::new();
        for site in (0..SITES).filter(|site| *site != primary && !self.is_gone(*site)) {
            let end = self.logbook.end(site);
            let has_mark = position(&self.sites[site].bare).await;
            let has_mark = has_mark.map_err(surprise)?.is_some();
            let is_same = self.logbook.at(primary, newest.epoch_began())
                == self.logbook.at(site, newest.epoch_began());
            let parts = self.logbook.parts(primary, site).is_some();
            if has_mark && is_same && !parts && end.number > 0 {
                copies.push(site);
            }
        }
        Ok(copies)
    }

    async fn switch(&self) -> Checked {
        let old = self.primary();
        let Some(new) = self.entropy.pick(&self.copies().await?).copied() else {
            return Ok(());
        };
        let manner = match self.entropy.below(3) {
            0 => Manner::Vanishes,
            1 => Manner::CutOff,
            _ => Manner::Fenced,
        };
        self.note(format_args!(
            "the owner leaves site {old} for site {new}: {manner:?}"
        ));
        match manner {
            Manner::Vanishes => {
                self.sites[old].faulty.set_gone(true);
                locked(&self.gone).push(old);
            }
            Manner::CutOff => {}
            Manner::Fenced => self.fence_and_copy(old, new).await?,
        }
        self.logbook.check().await?;
        let marked = position(&self.sites[new].bare).await.map_err(surprise)?;
        let Some(done) = self.promote(new).await? else {
            // It said so. The first store turns up again, or is let go on.
            self.note(format_args!("site {new} cannot be promoted"));
            self.count(|report| report.refused += 1);
            self.sites[old].faulty.set_gone(false);
            locked(&self.gone).retain(|site| *site != old);
            return Ok(());
        };
        self.logbook.check().await?;
        self.check_promotion(old, new, marked.map_or(0, |mark| mark.number), &done)?;
        if manner == Manner::Fenced && !(done.is_end && done.left_behind == 0) {
            return Err(Violation(format!(
                "a fenced log was left before its end: {done:?}"
            )));
        }
        self.primary.store(new, Ordering::Relaxed);
        self.count(|report| {
            report.switches += 1;
            report.left_behind += done.left_behind;
            report.vanished += u64::from(manner == Manner::Vanishes);
            report.fenced += u64::from(manner == Manner::Fenced);
        });
        if manner != Manner::Vanishes {
            locked(&self.left).push(old);
        }
        // One after the other they are told where it goes on.
        for machine in &self.machines {
            tokio::time::sleep(Duration::from_millis(self.entropy.below(6_000))).await;
            let _between_steps = machine.at_work.lock().await;
            machine.send_to(new)?;
            self.note(format_args!("{} is sent to site {new}", machine.name));
        }
        if manner == Manner::CutOff && self.entropy.chance(700) {
            tokio::time::sleep(Duration::from_millis(self.entropy.below(60_000))).await;
            self.bring_over(old, true).await?;
        }
        Ok(())
    }

    /// Ends a log, and copies it to its end.
    async fn fence_and_copy(&self, old: usize, new: usize) -> Checked {
        let machine = MachineId::random(&self.entropy);
        for attempt in 0.. {
            let repository = self.repository(old)?;
            match self
                .may_die(300, 40, fence(&repository, machine, &self.entropy))
                .await
            {
                Some(Ok(_)) => break,
                // Others came first.
                None | Some(Err(Error::Conflict { .. })) => {}
                Some(Err(error)) if is_fault(&error) => {}
                Some(Err(error)) => return Err(Violation(format!("fencing: {error}"))),
            }
            self.patience(attempt, "fence")?;
        }
        for attempt in 0.. {
            let copied = self.may_die(300, 300, self.copy(old, new)).await;
            if let Some(copied) = copied
                && copied?.stopped.is_none()
            {
                return Ok(());
            }
            self.patience(attempt, "copy to the end")?;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        Ok(())
    }

    pub(super) fn patience(&self, attempt: u32, doing: &str) -> Checked {
        match attempt < ATTEMPTS {
            true => Ok(()),
            false => Err(Violation(format!("{doing}: it never comes to an end"))),
        }
    }

    /// Promotes a site, again and again from another place, until it is done; `None` if it is refused.
    async fn promote(&self, site: usize) -> Checked<Option<Promotion>> {
        for attempt in 0.. {
            let repository = self.repository(site)?;
            let (machine, entropy) = (MachineId::random(&self.entropy), self.entropy.branch());
            let promoting = promote(&repository, machine, &entropy);
            match self.may_die(500, 60, Box::pin(promoting)).await {
                Some(Ok(done)) => return Ok(Some(done)),
                None => {}
                Some(Err(error)) if is_fault(&error) => {}
                Some(Err(error @ Error::Refused { .. })) => {
                    self.note(format_args!("promoting site {site}: {error}"));
                    return match error.to_string().contains("was opened in another store") {
                        true => Ok(None),
                        false => Err(Violation(format!("promoting site {site}: {error}"))),
                    };
                }
                Some(Err(error)) => {
                    return Err(Violation(format!("promoting site {site}: {error}")));
                }
            }
            self.patience(attempt, "promote")?;
            tokio::time::sleep(Duration::from_millis(self.entropy.below(2_000))).await;
        }
        Ok(None)
    }

    /// Nothing up to the last mark is lost, and the state that goes on is that of one record.
    fn check_promotion(&self, old: usize, new: usize, mark: u64, done: &Promotion) -> Checked {
        let from = done.from;
        let wrong = |what: &str| {
            Err(Violation(format!(
                "site {new} was marked at {mark}, {what}: {done:?}"
            )))
        };
        if from.number < mark {
            return wrong("and goes on from before");
        }
        if self.logbook.at(old, from.number) != Some(from) {
            return wrong("and goes on from what the first store does not have");
        }
        let Some(by) = done.by.and_then(|by| self.logbook.state(by)) else {
            return wrong("and its promote stands nowhere");
        };
        let there = self.logbook.state(from);
        if there.is_none_or(|there| tree_of(&there) != tree_of(&by)) {
            return wrong("and goes on with another directory");
        }
        Ok(())
    }

    /// Brings over what a store has that was left, until it is done.
    pub(super) async fn bring_over(&self, old: usize, has_faults: bool) -> Checked {
        let new = self.primary();
        for attempt in 0.. {
            let (from, to) = (self.repository(old)?, self.repository(new)?);
            let bringing = bring_over(&from, &to, &self.entropy, true);
            let brought = match has_faults {
                true => self.may_die(400, 120, Box::pin(bringing)).await,
                false => Some(Box::pin(bringing).await),
            };
            self.logbook.check().await?;
            match brought {
                None => {}
                Some(Ok(lost)) => {
                    let is_open = lost.iter().find(|one| {
                        let is_push = one.kind == Kind::Push;
                        let is_left_out = is_push && one.end == End::LeftOut;
                        one.end == End::Wanted || is_left_out && !self.has_collector
                    });
                    if let Some(open) = is_open {
                        return Err(Violation(format!("it was not brought over: {open:?}")));
                    }
                    if !has_faults {
                        self.check_brought(old, new, &lost)?;
                    }
                    return Ok(());
                }
                Some(Err(error)) if is_fault(&error) => {}
                // It let go of what it had, and says so.
                Some(Err(Error::Refused { reason }))
                    if self.has_collector && reason.contains("has retired") =>
                {
                    return Ok(());
                }
                Some(Err(error)) => {
                    let what = format!("bringing over from site {old} to site {new}: {error}");
                    return Err(Violation(what));
                }
            }
            self.patience(attempt, "bring over")?;
            tokio::time::sleep(Duration::from_millis(self.entropy.below(3_000))).await;
        }
        Ok(())
    }

    /// Every push that the new log lacks is among those that were said to be lost.
    fn check_brought(&self, old: usize, new: usize, lost: &[Lost]) -> Checked {
        let (Some(known), Some(state)) = (
            self.logbook.state(self.logbook.end(old)),
            self.logbook.state(self.logbook.end(new)),
        ) else {
            return Ok(());
        };
        let Some(fork) = state.fork_since(&known) else {
            return Err(Violation(format!(
                "site {new} does not go on from site {old}"
            )));
        };
        let pushes = self.logbook.pushes_after(old, fork.number);
        let told = |number: u64| lost.iter().any(|one| one.number == number);
        if let Some(silent) = pushes.iter().find(|push| !told(push.number)) {
            return Err(Violation(format!(
                "nobody was told that {silent:?} is lost"
            )));
        }
        let landed = lost.iter().filter(|one| matches!(one.end, End::Landed(_)));
        let landed = landed.count() as u64;
        self.count(|report| {
            report.lost += pushes.len() as u64;
            report.brought += landed;
        });
        Ok(())
    }
}
