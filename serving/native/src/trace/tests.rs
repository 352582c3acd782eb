use std::time::Duration;

use hyper::header::HeaderValue;

use super::*;

fn tracing(room: usize, sampler: Sampler) -> Arc<Tracing> {
    let tracing = Tracing::new(sampler, vec![], room, 10);
    tracing.set("", setting(1, -1));
    Arc::new(tracing)
}

fn setting(rate: u64, left: i64) -> Setting {
    Setting {
        timestamps: true,
        rate,
        left: AtomicI64::new(left),
        ..Setting::default()
    }
}

const ALL: Sampler = Sampler {
    parent_based: true,
    ratio: 1.0,
};

fn headers(flags: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
    headers.insert("traceparent", HeaderValue::try_from(value).unwrap());
    headers
}

/// Whether a request with these headers is traced.
fn traced(tracing: &Arc<Tracing>, headers: &HeaderMap) -> bool {
    let context = context(Some(tracing), headers).unwrap();
    context
        .begin("m", || Door::Grpc {
            method: "ModelInfer",
        })
        .is_some()
}

fn of(tracing: &Arc<Tracing>, requests: usize) -> usize {
    (0..requests)
        .filter(|_| traced(tracing, &HeaderMap::new()))
        .count()
}

#[test]
fn the_sender_decides() {
    let tracing = tracing(100, ALL);
    tracing.set("", setting(0, 0));
    assert!(traced(&tracing, &headers("01")));
    assert!(!traced(&tracing, &headers("00")));
    assert!(!traced(&tracing, &HeaderMap::new()));
    tracing.set("", Setting::default());
    assert!(!traced(&tracing, &headers("01")), "it is off");
}

#[test]
fn a_sampler_that_is_not_told_by_the_sender_goes_by_the_trace() {
    let all = Sampler {
        parent_based: false,
        ratio: 1.0,
    };
    assert!(traced(&tracing(100, all), &headers("00")));
    let none = Sampler {
        parent_based: false,
        ratio: 0.0,
    };
    assert!(!traced(&tracing(100, none), &headers("01")));
    // The lower half of this trace is 0x8448..., a bit more than half of all.
    let by = |ratio| Sampler {
        parent_based: false,
        ratio,
    };
    assert!(!traced(&tracing(100, by(0.51)), &headers("01")));
    assert!(traced(&tracing(100, by(0.52)), &headers("01")));
}

#[test]
fn one_of_so_many_and_no_more_than_that() {
    let tracing = tracing(1000, ALL);
    tracing.set("", setting(10, -1));
    assert_eq!(of(&tracing, 100), 10);
    tracing.set("", setting(10, 3));
    assert_eq!(of(&tracing, 100), 3);
    assert_eq!(tracing.left(""), 0);
    assert!(traced(&tracing, &headers("01")), "the sender decides");
    tracing.set("m", setting(1, 2));
    assert_eq!((of(&tracing, 100), tracing.left("m")), (2, 0));
    let half = Sampler {
        parent_based: true,
        ratio: 0.5,
    };
    let some = of(&self::tracing(100_000, half), 10_000);
    assert!((4_500..5_500).contains(&some), "{some}");
}

#[test]
fn what_finds_no_room_is_counted() {
    let tracing = tracing(3, ALL);
    assert_eq!(of(&tracing, 5), 5);
    assert_eq!(tracing.dropped(), 2);
    let (request, spans) = tracing.take(Duration::ZERO).unwrap();
    assert!(spans == 3 && !request.is_empty());
    assert!(tracing.take(Duration::ZERO).is_none());
    assert_eq!((of(&tracing, 1), tracing.dropped()), (1, 2));
}

#[test]
fn a_span_keeps_no_more_of_a_name_than_its_beginning() {
    let tracing = tracing(100, ALL);
    let context = context(Some(&tracing), &HeaderMap::new()).unwrap();
    let door = || Door::Grpc {
        method: "ModelInfer",
    };
    drop(context.begin(&"m".repeat(1 << 20), door));
    let (request, _) = tracing.take(Duration::ZERO).unwrap();
    assert!(request.len() < 2000, "{}", request.len());
}

#[test]
fn a_deadline_that_has_passed_is_not_a_client_that_went_away() {
    let tracing = tracing(100, ALL);
    let context = context(Some(&tracing), &HeaderMap::new()).unwrap();
    let door = || Door::Grpc {
        method: "ModelInfer",
    };
    for (deadline, why) in [
        (None, "the client went away"),
        (Some(Duration::from_secs(60)), "the client went away"),
        (Some(Duration::MAX), "the client went away"),
        (Some(Duration::ZERO), "the call's deadline has passed"),
    ] {
        drop(context.clone().until(deadline).begin("m", door));
        let (request, _) = tracing.take(Duration::ZERO).unwrap();
        let told = String::from_utf8_lossy(&request).contains(why);
        assert!(told, "{deadline:?}");
    }
}

#[test]
fn a_batch_wakes_who_waits_and_a_closed_buffer_keeps_nobody() {
    let tracing = tracing(100, ALL);
    let take = |tracing: &Arc<Tracing>| {
        let tracing = Arc::clone(tracing);
        std::thread::spawn(move || tracing.take(Duration::from_secs(60)).map(|taken| taken.1))
    };
    let waiting = take(&tracing);
    of(&tracing, 10);
    assert_eq!(waiting.join().unwrap(), Some(10));
    let frequent = Setting {
        log_frequency: 2,
        ..setting(1, -1)
    };
    tracing.set("", frequent);
    let waiting = take(&tracing);
    of(&tracing, 2);
    assert_eq!(waiting.join().unwrap(), Some(2));
    let waiting = take(&tracing);
    tracing.close();
    assert_eq!(waiting.join().unwrap(), None);
}

#[test]
fn numbers_differ() {
    let many: std::collections::HashSet<u64> = (0..1000).map(|_| number()).collect();
    assert!(many.len() == 1000 && !many.contains(&0));
}
