//! The `Command` derive macro of Outboard. Use it through the crate `outboard`, which re-exports it.

mod attributes;
mod expand;
mod name;

use proc_macro::TokenStream;

/// Makes a type a command: gives it its name, its description and its field rules.
///
/// On the type, `#[command(...)]` takes
/// - `name = "feature/kebab-name"`, required, checked while compiling;
/// - `description = "..."`; without it, the doc comment is the description;
/// - `validate = path` of a `fn(&Self, &mut Checks)` that adds what field rules cannot say.
///
/// On a field, `#[command(...)]` takes `required`, `min_length = N`, `max_length = N` (characters or items),
/// `min_value = N` and `max_value = N`. Errors name fields as JSON does: `#[serde(rename = "...")]` and
/// `#[serde(rename_all = "...")]` are followed.
///
/// ```text
/// /// Confirms an order and tells the customer.
/// #[derive(Command, Serialize, Deserialize)]
/// #[command(name = "orders/confirm")]
/// struct ConfirmOrder {
///     #[command(min_value = 1)]
///     order_id: u64,
///     #[command(required, max_length = 200)]
///     customer: String,
/// }
/// ```
#[proc_macro_derive(Command, attributes(command))]
pub fn derive_command(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    expand::expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}
