//! Policies by example, and what holds for all of them.

use proptest::prelude::*;

use super::*;

const HOUR: i64 = DAY_MS / 24;
/// Monday, 5 January 1970.
const MONDAY: i64 = 4 * DAY_MS;

const NONE: Policy = Policy {
    within_days: 0,
    last: 0,
    hourly: 0,
    daily: 0,
    weekly: 0,
    monthly: 0,
    yearly: 0,
};

/// Points at these moments, each superseded by the next; records between them make none.
fn points(times: &[i64]) -> Vec<PointAge> {
    let at = Timestamp::from_millis;
    let next = times.iter().skip(1).map(|time| Some(at(*time)));
    let superseded = next.chain(std::iter::once(None));
    let numbered = times.iter().zip(superseded).zip(0_u64..);
    numbered
        .map(|((time, superseded), index)| PointAge {
            from: index * 3 + 1,
            to: index * 3 + 3,
            time: at(*time),
            superseded,
            is_named: false,
        })
        .collect()
}

fn kept(policy: Policy, points: &[PointAge], now: i64) -> Vec<usize> {
    let expiry = policy.expiry(points, Timestamp::from_millis(now), 0);
    let stays = |index: &usize| !expiry.numbers.contains(points[*index].from);
    (0..points.len()).filter(stays).collect()
}

#[test]
fn each_rule_keeps_the_last_point_of_its_slots() {
    let hour = |hours: i64| MONDAY + hours * HOUR;
    // Two in one hour, two more that day, one on Sunday of that week, one on the Monday after, one in
    // February, one in the next year.
    let times = [
        hour(0),
        hour(0) + 1,
        hour(5),
        hour(6),
        hour(6 * 24 + 23),
        hour(7 * 24),
        hour(30 * 24),
        hour(400 * 24),
    ];
    let (points, now) = (points(&times), hour(500 * 24));
    for (policy, expected) in [
        (NONE, &[7][..]),
        (Policy { last: 3, ..NONE }, &[5, 6, 7]),
        (Policy { hourly: 6, ..NONE }, &[2, 3, 4, 5, 6, 7]),
        (Policy { hourly: 99, ..NONE }, &[1, 2, 3, 4, 5, 6, 7]),
        (Policy { daily: 99, ..NONE }, &[3, 4, 5, 6, 7]),
        (Policy { weekly: 99, ..NONE }, &[4, 5, 6, 7]),
        (
            Policy {
                monthly: 99,
                ..NONE
            },
            &[5, 6, 7],
        ),
        (Policy { yearly: 99, ..NONE }, &[6, 7]),
        (
            Policy {
                yearly: 1,
                last: 1,
                ..NONE
            },
            &[7],
        ),
        (
            Policy {
                within_days: 470,
                ..NONE
            },
            &[6, 7],
        ),
        (Policy::default(), &[7]),
    ] {
        assert_eq!(kept(policy, &points, now), expected, "{policy:?}");
    }
}

#[test]
fn ages_count_from_when_a_point_was_superseded() {
    let points = points(&[0, 10 * DAY_MS]);
    let policy = Policy {
        within_days: 3,
        ..NONE
    };
    assert_eq!(kept(policy, &points, 13 * DAY_MS - 1), [0, 1]);
    assert_eq!(kept(policy, &points, 13 * DAY_MS), [1]);
}

#[test]
fn an_expiry_of_over_half_needs_approval() {
    let times: Vec<i64> = (0..40).map(|day| day * DAY_MS).collect();
    let points = points(&times);
    let expiry = |last, points: &[PointAge]| {
        let now = Timestamp::from_millis(1_000 * DAY_MS);
        Policy { last, ..NONE }.expiry(points, now, 0)
    };
    assert!(expiry(19, &points).needs_approval());
    assert!(!expiry(20, &points).needs_approval());
    // Of few points, over half is soon said.
    assert!(!expiry(1, &points[..APPROVAL_POINTS_MIN - 1]).needs_approval());
}

fn policies() -> impl Strategy<Value = Policy> {
    let few = || 0..5_u32;
    (few(), few(), few(), few(), few(), few(), few()).prop_map(
        |(within_days, last, hourly, daily, weekly, monthly, yearly)| Policy {
            within_days,
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
        },
    )
}

proptest! {
    /// The newest point, what a snapshot keeps and what is younger than the floor never expire; what
    /// expired stays expired as time goes on; a policy that keeps more in every way keeps no less.
    #[test]
    fn what_may_not_expire_does_not(
        policy in policies(),
        steps in proptest::collection::vec((0..40_i64, any::<bool>()), 1..40),
        floor_days in 0..9_i64,
        later in 0..9_i64,
    ) {
        let mut time = MONDAY;
        let times: Vec<i64> = steps.iter().map(|(hours, _)| {
            time += hours * HOUR;
            time
        }).collect();
        let mut points = points(&times);
        for (point, (_, is_named)) in points.iter_mut().zip(&steps) {
            point.is_named = *is_named;
        }
        let (now, floor) = (time + DAY_MS, floor_days * DAY_MS);
        let at = |now| Timestamp::from_millis(now);
        let expiry = policy.expiry(&points, at(now), floor);
        let gone = |point: &&PointAge| expiry.numbers.contains(point.from);
        prop_assert_eq!(points.iter().filter(gone).count(), expiry.points);
        for point in &points {
            let covers = expiry.numbers.covers(point.from..=point.to);
            prop_assert_eq!(covers, gone(&point), "a point goes whole or stays whole");
            let is_young = point.superseded.is_none_or(|since| now - since.as_millis() < floor);
            prop_assert!(!(covers && (point.is_named || is_young)));
        }
        let more = Policy {
            within_days: policy.within_days + 1,
            last: policy.last + 1,
            hourly: policy.hourly + 1,
            daily: policy.daily + 1,
            weekly: policy.weekly + 1,
            monthly: policy.monthly + 1,
            yearly: policy.yearly + 1,
        };
        let of_more = more.expiry(&points, at(now), floor);
        let then = policy.expiry(&points, at(now + later * DAY_MS), floor);
        for (first, last) in of_more.numbers.ranges() {
            prop_assert!(expiry.numbers.covers(first..=last));
        }
        for (first, last) in expiry.numbers.ranges() {
            prop_assert!(then.numbers.covers(first..=last));
        }
    }
}
