//! Small numbers for every day, full ones for the promises as they are stated.

use std::sync::LazyLock;

/// Takes the number of the scale that `OUTBOARD_TEST_SCALE` names.
pub(crate) fn scaled<T>(small: T, full: T) -> T {
    if *IS_FULL { full } else { small }
}

static IS_FULL: LazyLock<bool> = LazyLock::new(|| match std::env::var("OUTBOARD_TEST_SCALE").as_deref() {
    Ok("full") => true,
    Ok("small" | "") | Err(_) => false,
    Ok(other) => panic!("OUTBOARD_TEST_SCALE is `{other}`; it is `small` or `full`"),
});
