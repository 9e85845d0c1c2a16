//! Which commands an application knows, by type name.

use std::{any::TypeId, collections::BTreeMap, fmt, sync::Arc};

use crate::{
    command::{self, Command, CommandInfo},
    validate::Invalid,
};

/// The commands that Rust code handles, with their checks.
///
/// ```
/// use outboard::{Registry, Rejected};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(outboard::Command, Serialize, Deserialize)]
/// # #[command(name = "orders/confirm")]
/// # struct ConfirmOrder { order_id: u64 }
/// let mut registry = Registry::default();
/// registry.add::<ConfirmOrder>().unwrap();
/// assert!(registry.check("orders/confirm", br#"{"order_id":7}"#).is_ok());
/// let Err(Rejected::Invalid(invalid)) = registry.check("orders/confirm", b"{}") else { panic!() };
/// assert_eq!(invalid.fields[0].field, "order_id");
/// ```
#[derive(Default)]
pub struct Registry {
    entries: BTreeMap<&'static str, Entry>,
}

struct Entry {
    info: CommandInfo,
    /// The name as messages carry it, so that they share one allocation.
    kind: Arc<str>,
    rust_type: TypeId,
    rust_name: &'static str,
    check: fn(&[u8]) -> Result<(), Invalid>,
}

impl Registry {
    /// Registers a command. Several workers may handle one type, so the same command may come again; another Rust
    /// type with the same name is an error.
    pub fn add<C: Command>(&mut self) -> Result<(), NameTaken> {
        let entry = Entry {
            info: CommandInfo::of::<C>(),
            kind: C::NAME.into(),
            rust_type: TypeId::of::<C>(),
            rust_name: std::any::type_name::<C>(),
            check: |payload| command::decode::<C>(payload)?.validate(),
        };
        match self.entries.get(C::NAME) {
            Some(known) if known.rust_type != entry.rust_type => {
                Err(NameTaken { name: C::NAME, first: known.rust_name, second: entry.rust_name })
            }
            Some(_) => Ok(()),
            None => {
                self.entries.insert(C::NAME, entry);
                Ok(())
            }
        }
    }

    /// Reads a payload as the command that has this name, and checks it by the command's own rules. The rules of an
    /// application's state are the executor's.
    pub fn check(&self, kind: &str, payload: &[u8]) -> Result<(), Rejected> {
        let Some(entry) = self.entries.get(kind) else {
            let known = self.entries.keys().copied().collect();
            return Err(Rejected::Unknown { kind: kind.to_string(), known });
        };
        (entry.check)(payload).map_err(Rejected::Invalid)
    }

    /// Whether a command has this name.
    pub fn contains(&self, kind: &str) -> bool {
        self.entries.contains_key(kind)
    }

    /// The name of `C` as messages carry it; `None` for a command that is not registered.
    pub(crate) fn kind<C: Command>(&self) -> Option<Arc<str>> {
        self.entries.get(C::NAME).map(|entry| entry.kind.clone())
    }

    /// All commands, by name.
    pub fn commands(&self) -> Vec<CommandInfo> {
        self.entries.values().map(|entry| entry.info).collect()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

/// Registers one command, whose type it alone knows.
pub(crate) type Register = fn(&mut Registry) -> Result<(), NameTaken>;

/// Why a payload is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// No command has this name.
    #[error("`{kind}` is not known; the known ones are: {}", known.join(", "))]
    Unknown {
        /// The name that was given.
        kind: String,
        /// The names that are known.
        known: Vec<&'static str>,
    },
    /// It cannot be read, or it breaks rules.
    #[error("{0}")]
    Invalid(Invalid),
}

/// Two Rust types want the same command name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is the name of two Rust types, `{first}` and `{second}`: give one of them another name")]
pub struct NameTaken {
    /// The name.
    pub name: &'static str,
    /// The type that was registered first.
    pub first: &'static str,
    /// The type that came second.
    pub second: &'static str,
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    /// Confirms an order.
    #[derive(crate::Command, Serialize, Deserialize)]
    #[command(name = "orders/confirm")]
    struct Confirm {
        #[command(min_value = 1)]
        order_id: u64,
    }

    #[derive(crate::Command, Serialize, Deserialize)]
    #[command(name = "orders/confirm")]
    struct Other {}

    #[test]
    fn a_name_belongs_to_one_rust_type() {
        let mut registry = Registry::default();
        assert_eq!(registry.add::<Confirm>(), Ok(()));
        assert_eq!(registry.add::<Confirm>(), Ok(()));
        let taken = registry.add::<Other>().expect_err("the name is taken");
        assert!(taken.to_string().contains("registry::tests::Other"), "{taken}");
        assert_eq!(
            registry.commands(),
            [CommandInfo { name: "orders/confirm", description: "Confirms an order." }]
        );
    }

    #[test]
    fn unknown_names_are_told_the_known_ones() {
        let mut registry = Registry::default();
        registry.add::<Confirm>().expect("the first");
        let rejected = registry.check("orders/confrim", b"{}").expect_err("unknown");
        assert!(rejected.to_string().ends_with("the known ones are: orders/confirm"), "{rejected}");
    }

    #[test]
    fn rules_are_checked_after_reading() {
        let mut registry = Registry::default();
        registry.add::<Confirm>().expect("the first");
        let Err(Rejected::Invalid(invalid)) = registry.check("orders/confirm", br#"{"order_id":0}"#) else {
            panic!("0 is below the least value");
        };
        assert_eq!(invalid.fields[0].code, "min_value");
    }
}
