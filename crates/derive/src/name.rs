//! The form of a command's name.

/// The longest name that the log takes, in bytes.
const MAX_BYTES: usize = 200;

/// Why `name` is not of the form `feature/kebab-name`, in words that say how to mend it.
pub(crate) fn objection(name: &str) -> Option<String> {
    if name.len() > MAX_BYTES {
        return Some(format!("a command's name has at most {MAX_BYTES} bytes; this one has {}", name.len()));
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [feature, action] = parts[..] else {
        return Some(format!(
            "`{name}` must have the form `feature/kebab-name`, with exactly one `/`, such as `orders/confirm`"
        ));
    };
    [("feature", feature), ("name", action)].into_iter().find_map(|(part, text)| {
        let wrong = if text.is_empty() {
            format!("the {part} is empty")
        } else if let Some(character) = text.chars().find(|&c| !is_allowed(c)) {
            format!("the {part} `{text}` contains `{character}`")
        } else if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
            format!("the {part} `{text}` does not begin with a letter")
        } else if text.ends_with('-') || text.contains("--") {
            format!("the {part} `{text}` has a `-` that joins nothing")
        } else {
            return None;
        };
        Some(format!("{wrong}: write `feature/kebab-name` in lower-case letters, digits and single `-`"))
    })
}

fn is_allowed(character: char) -> bool {
    character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_kebab_names() {
        for name in ["orders/confirm", "summary/set-generated-summary", "big-shop/v2-order", "a/b"] {
            assert_eq!(objection(name), None, "{name}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (name, words) in [
            ("confirm", "exactly one `/`"),
            ("a/b/c", "exactly one `/`"),
            ("/confirm", "the feature is empty"),
            ("orders/", "the name is empty"),
            ("orders/ConfirmOrder", "contains `C`"),
            ("orders/confirm_order", "contains `_`"),
            ("orders/7-up", "does not begin with a letter"),
            ("orders/confirm-", "joins nothing"),
            ("orders/con--firm", "joins nothing"),
        ] {
            let objection = objection(name).expect(name);
            assert!(objection.contains(words), "{name}: {objection}");
        }
        assert!(objection(&format!("a/{}", "b".repeat(200))).expect("too long").contains("at most 200"));
    }
}
