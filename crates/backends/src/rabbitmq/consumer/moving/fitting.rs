//! Headers that fit the broker's frame.

use std::collections::BTreeMap;

use bytes::BytesMut;

use super::super::mapping::{DEAD_REASON, HISTORY, RETRY_COUNT, is_account};
use crate::rabbitmq::codec::{
    properties::Properties,
    table::{Table, Value},
};

/// So many bytes are kept of the reason of a dead letter, where there is no room for more.
const LEAST_REASON: usize = 200;

/// Makes properties fit so many bytes. What matters least goes first: what earlier attempts said, then every account
/// but the count of attempts and the reason, and at last the message's own headers, the largest first. Their names.
pub(super) fn fit(properties: &mut Properties, room: usize) -> Vec<String> {
    if size(properties) <= room {
        return Vec::new();
    }
    change(properties, |headers| drop(headers.remove(HISTORY)));
    if size(properties) <= room {
        return Vec::new();
    }
    change(properties, |headers| {
        headers.retain(|name, _| !is_account(name) || matches!(name.as_str(), RETRY_COUNT | DEAD_REASON));
        if let Some(Value::Text(reason)) = headers.get_mut(DEAD_REASON) {
            let kept = String::from_utf8_lossy(reason);
            *reason = kept[..kept.floor_char_boundary(LEAST_REASON)].to_owned().into();
        }
    });
    let surplus = size(properties).saturating_sub(room);
    if surplus == 0 {
        return Vec::new();
    }
    let mut left_out = Vec::new();
    change(properties, |headers| left_out = leave_out(headers, surplus));
    left_out
}

fn change(properties: &mut Properties, change: impl FnOnce(&mut BTreeMap<String, Value>)) {
    if let Some(headers) = &mut properties.headers {
        change(&mut headers.0);
    }
}

/// Leaves out as few of the message's own headers as make up for so many bytes.
fn leave_out(headers: &mut BTreeMap<String, Value>, surplus: usize) -> Vec<String> {
    let alone = |(name, value): (&String, &Value)| {
        let table = Table([(name.clone(), value.clone())].into_iter().collect());
        (size(&Properties { headers: Some(table), ..Properties::default() }) - EMPTY, name.clone())
    };
    let mut own: Vec<_> = headers.iter().filter(|(name, _)| !is_account(name)).map(alone).collect();
    own.sort_unstable_by(|one, other| other.cmp(one));
    let (mut left_out, mut freed) = (Vec::new(), 0);
    for (bytes, name) in own {
        if freed >= surplus {
            break;
        }
        headers.remove(&name);
        freed += bytes;
        left_out.push(name);
    }
    left_out
}

/// The bytes of properties with an empty table of headers, and nothing else: flags, and a length.
const EMPTY: usize = 6;

fn size(properties: &Properties) -> usize {
    let mut bytes = BytesMut::new();
    properties.write(&mut bytes);
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 6_000;

    /// With an account, and own headers of these sizes.
    fn properties(own: &[usize]) -> Properties {
        let text = |bytes: usize| Value::from(&*"x".repeat(bytes));
        let mut headers = Table::of([
            (RETRY_COUNT, 7.into()),
            (HISTORY, Value::Array(vec![text(500)])),
            (DEAD_REASON, text(500)),
            ("x-death", Value::Array(vec![text(500)])),
        ]);
        let own = own.iter().enumerate().map(|(at, &bytes)| (format!("own-{at}"), text(bytes)));
        headers.0.extend(own);
        Properties { headers: Some(headers), ..Properties::default() }
    }

    fn names(properties: &Properties) -> Vec<&str> {
        properties.headers.iter().flat_map(|headers| headers.0.keys()).map(String::as_str).collect()
    }

    #[test]
    fn what_matters_least_goes_first() {
        for (own, account, left_out) in [
            (vec![100], vec!["own-0", DEAD_REASON, "x-death", RETRY_COUNT, HISTORY], vec![]),
            (vec![ROOM - 1_500], vec!["own-0", DEAD_REASON, "x-death", RETRY_COUNT], vec![]),
            (vec![ROOM - 500], vec!["own-0", DEAD_REASON, RETRY_COUNT], vec![]),
            (vec![10, ROOM - 100, 20], vec!["own-0", "own-2", DEAD_REASON, RETRY_COUNT], vec!["own-1"]),
            (vec![ROOM, 3_000, ROOM], vec!["own-1", DEAD_REASON, RETRY_COUNT], vec!["own-2", "own-0"]),
        ] {
            let mut properties = properties(&own);
            assert_eq!(fit(&mut properties, ROOM), left_out, "{own:?}");
            assert!(size(&properties) <= ROOM, "{own:?}");
            assert_eq!(names(&properties), account, "{own:?}");
        }
        assert_eq!(size(&Properties { headers: Some(Table::default()), ..Properties::default() }), EMPTY);
    }
}
