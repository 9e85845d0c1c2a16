//! The code that the derive writes.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Fields, Result, spanned::Spanned};

use crate::attributes::{self, CommandAttributes};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let command = attributes::of_command(input)?;
    let rules = field_rules(input, &command)?;
    let own = command.validate.as_ref().map(|path| {
        quote_spanned! { path.span() => #path(self, &mut checks); }
    });
    let validate = (!rules.is_empty() || own.is_some()).then(|| {
        quote! {
            fn validate(&self) -> ::core::result::Result<(), ::outboard::Invalid> {
                let mut checks = ::outboard::Checks::new();
                #(#rules)*
                #own
                checks.finish()
            }
        }
    });
    let CommandAttributes { name, description, .. } = &command;
    let ident = &input.ident;
    let (generics, arguments, clause) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #generics ::outboard::Command for #ident #arguments #clause {
            const NAME: &'static str = #name;
            const DESCRIPTION: &'static str = #description;
            #validate
        }
    })
}

/// One statement for each field that has rules.
fn field_rules(input: &DeriveInput, command: &CommandAttributes) -> Result<Vec<TokenStream>> {
    let (fields, is_named_struct) = match &input.data {
        Data::Struct(data) => {
            (data.fields.iter().collect::<Vec<_>>(), matches!(data.fields, Fields::Named(_)))
        }
        Data::Enum(data) => (data.variants.iter().flat_map(|variant| variant.fields.iter()).collect(), false),
        Data::Union(_) => {
            return Err(syn::Error::new(
                input.ident.span(),
                "a union cannot be a command: use a struct or an enum",
            ));
        }
    };
    let mut statements = Vec::new();
    for field in fields {
        let rules = attributes::of_field(field)?;
        if rules.is_empty() {
            continue;
        }
        if !is_named_struct {
            return Err(syn::Error::new(
                field.span(),
                "rules belong to the fields of a struct with named fields: use `validate = path` on the type here",
            ));
        }
        let ident = &field.ident;
        let name = attributes::json_name(field, command.rename_all.as_deref());
        let calls = rules.iter().map(|rule| {
            let (method, argument) = (&rule.method, &rule.argument);
            quote_spanned! { method.span() => .#method(#argument) }
        });
        statements.push(quote! { checks.field(#name, &self.#ident) #(#calls)*; });
    }
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    fn error(input: DeriveInput) -> String {
        expand(&input).expect_err("it is refused").to_string()
    }

    #[test]
    fn mistakes_are_told_with_their_mend() {
        for (input, words) in [
            (parse_quote! { struct A {} }, "a command needs a name: add `#[command(name ="),
            (parse_quote! { #[command(name = "a/B")] struct A {} }, "contains `B`"),
            (parse_quote! { #[command(name = "a/b", nam = "x")] struct A {} }, "unknown key"),
            (parse_quote! { #[command(name = "a/b", name = "a/c")] struct A {} }, "given twice"),
            (parse_quote! { #[command(name = 7)] struct A {} }, "expected string literal"),
            (parse_quote! { #[command(name = "a/b")] union A { x: u8 } }, "a union cannot be a command"),
            (
                parse_quote! { #[command(name = "a/b")] struct A { #[command(minimum = 1)] x: u8 } },
                "unknown rule: a field takes",
            ),
            (
                parse_quote! { #[command(name = "a/b")] struct A { #[command(required, required)] x: u8 } },
                "`required` is given twice",
            ),
            (
                parse_quote! { #[command(name = "a/b")] struct A(#[command(required)] String); },
                "a struct with named fields",
            ),
        ] {
            let error = error(input);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn fields_go_by_their_names_in_json() -> Result<()> {
        let input: DeriveInput = parse_quote! {
            #[command(name = "a/b")]
            #[serde(rename_all = "camelCase", default)]
            struct A {
                #[command(required)]
                first_name: String,
                #[command(required)]
                #[serde(default, rename = "LAST", skip_serializing_if = "String::is_empty")]
                last_name: String,
                #[command(required)]
                #[serde(rename(serialize = "out", deserialize = "in"))]
                both: String,
                #[command(required)]
                r#type: String,
            }
        };
        let code = expand(&input)?.to_string();
        for name in ["firstName", "LAST", "in", "type"] {
            assert!(code.contains(&format!("field (\"{name}\"")), "{name}: {code}");
        }
        Ok(())
    }

    #[test]
    fn the_first_paragraph_of_the_doc_comment_describes() -> Result<()> {
        let input: DeriveInput = parse_quote! {
            /// Confirms
            /// an order.
            ///
            /// Much more.
            #[command(name = "a/b")]
            struct A {}
        };
        assert!(expand(&input)?.to_string().contains("\"Confirms an order.\""));
        let input: DeriveInput = parse_quote! {
            /// Not this.
            #[command(name = "a/b", description = "This.")]
            struct A {}
        };
        assert!(expand(&input)?.to_string().contains("\"This.\""));
        Ok(())
    }
}
