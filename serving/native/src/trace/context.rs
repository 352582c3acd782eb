//! W3C's trace context, as HTTP headers and gRPC metadata carry it.

use hyper::HeaderMap;

/// More of it is not passed on.
const MAX_STATE: usize = 512;

/// The span that a request is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    pub trace: u128,
    pub span: u64,
    pub sampled: bool,
    /// `tracestate`, which is passed on as it came.
    pub state: String,
}

impl Parent {
    /// What the headers say; a `traceparent` that is not well-formed says nothing.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let (value, None) = (values.next()?, values.next()) else {
            return None;
        };
        let mut parent = Self::read(value.as_bytes())?;
        let states = headers.get_all("tracestate").iter();
        let states: Vec<&str> = states.filter_map(|state| state.to_str().ok()).collect();
        let state = states.join(",");
        if state.len() <= MAX_STATE {
            parent.state = state;
        }
        Some(parent)
    }

    /// `version-trace-span-flags`; a version yet to come may have more behind it.
    fn read(value: &[u8]) -> Option<Self> {
        let (whole, rest) = value.split_at_checked(55)?;
        let version = u8::try_from(hex(&whole[..2])?).ok()?;
        let more = rest.first().is_some_and(|&byte| byte != b'-');
        let well_formed = [2, 35, 52].iter().all(|&dash| whole[dash] == b'-');
        if !well_formed || version == 255 || more || (version == 0 && !rest.is_empty()) {
            return None;
        }
        let (trace, span) = (hex(&whole[3..35])?, hex(&whole[36..52])? as u64);
        let sampled = hex(&whole[53..])? & 1 == 1;
        (trace != 0 && span != 0).then_some(Self {
            trace,
            span,
            sampled,
            state: String::new(),
        })
    }
}

/// Lower-case only, as the recommendation has it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn read(value: &str) -> Option<Parent> {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_str(value).unwrap());
        Parent::of(&headers)
    }

    #[test]
    fn a_traceparent_is_read() {
        let parent = read(&format!("00-{TRACE}-b7ad6b7169203331-01")).unwrap();
        assert_eq!(format!("{:032x}", parent.trace), TRACE);
        assert_eq!(parent.span, 0xb7ad_6b71_6920_3331);
        assert!(parent.sampled);
        let parent = read(&format!("00-{TRACE}-b7ad6b7169203331-02")).unwrap();
        assert!(!parent.sampled);
        assert!(read(&format!("cc-{TRACE}-b7ad6b7169203331-01-what-comes")).is_some());
    }

    #[test]
    fn what_is_not_well_formed_says_nothing() {
        for bad in [
            "",
            "00",
            &format!("00-{TRACE}-b7ad6b7169203331"),
            &format!("00-{TRACE}-b7ad6b7169203331-1"),
            &format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            &format!("00-{TRACE}-b7ad6b7169203331-011"),
            &format!("ff-{TRACE}-b7ad6b7169203331-01"),
            &format!("cc-{TRACE}-b7ad6b7169203331-01more"),
            &format!("00-{TRACE}-0000000000000000-01"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            &format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
            &format!("00_{TRACE}-b7ad6b7169203331-01"),
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_state_is_passed_on() {
        let mut headers = HeaderMap::new();
        let value = format!("00-{TRACE}-b7ad6b7169203331-01");
        headers.insert("traceparent", HeaderValue::from_str(&value).unwrap());
        headers.append("tracestate", HeaderValue::from_static("a=1"));
        headers.append("tracestate", HeaderValue::from_static("b=2"));
        assert_eq!(Parent::of(&headers).unwrap().state, "a=1,b=2");
        headers.append(
            "tracestate",
            HeaderValue::from_str(&"x".repeat(600)).unwrap(),
        );
        assert_eq!(Parent::of(&headers).unwrap().state, "");
        // Two parents are none.
        headers.append("traceparent", HeaderValue::from_str(&value).unwrap());
        assert_eq!(Parent::of(&headers), None);
    }
}
