//! Crashes: a future that is dropped in the middle, which is what a killed process looks like from
//! the inside.

use std::pin::Pin;
use std::task::{Context, Poll};

/// Runs a future and drops it instead of polling it once more than `polls` times; `None` then.
///
/// A future is polled again only after it waited for something, so going through the numbers from
/// 0 up to the first `Some` crashes it before its start and at each of its awaits that waited.
pub fn after_polls<F: Future>(polls: u64, future: F) -> Crashing<F> {
    Crashing {
        future: Some(Box::pin(future)),
        polls,
    }
}

/// The future of [`after_polls`].
#[derive(Debug)]
pub struct Crashing<F> {
    future: Option<Pin<Box<F>>>,
    polls: u64,
}

impl<F: Future> Future for Crashing<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(left) = self.polls.checked_sub(1) else {
            self.future = None;
            return Poll::Ready(None);
        };
        self.polls = left;
        match self.future.as_mut() {
            Some(future) => future.as_mut().poll(context).map(Some),
            None => Poll::Ready(None),
        }
    }
}

/// Polls a future so many times, lets something else happen to its end, and then goes on with the first.
pub fn overtaken<F: Future>(
    polls: u64,
    future: F,
    meanwhile: impl Future<Output = ()>,
) -> impl Future<Output = F::Output> {
    let (mut future, meanwhile) = (Box::pin(future), Box::pin(meanwhile));
    let mut left = polls;
    async move {
        let begun = std::future::poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(None);
            }
            left -= 1;
            future.as_mut().poll(context).map(Some)
        });
        let done = begun.await;
        meanwhile.await;
        match done {
            Some(done) => done,
            None => future.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test]
    async fn every_await_is_a_place_to_crash() {
        let steps = AtomicU64::new(0);
        let work = || async {
            for _ in 0..3 {
                steps.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        };
        let mut reached = Vec::new();
        for polls in 0.. {
            steps.store(0, Ordering::Relaxed);
            let done = after_polls(polls, work()).await.is_some();
            reached.push(steps.load(Ordering::Relaxed));
            if done {
                break;
            }
        }
        assert_eq!(reached, [0, 1, 2, 3, 3]);
    }
}
