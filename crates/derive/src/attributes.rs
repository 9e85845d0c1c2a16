//! What the attributes of a type and of its fields say.

use syn::{
    Attribute, DeriveInput, Expr, ExprLit, Field, Lit, LitStr, Path, Result, Token, meta::ParseNestedMeta,
    parse::ParseStream,
};

use crate::name;

/// What `#[command(...)]` and the doc comment say about a type.
pub(crate) struct CommandAttributes {
    pub(crate) name: LitStr,
    pub(crate) description: String,
    pub(crate) validate: Option<Path>,
    /// `#[serde(rename_all = "...")]`, for the names of fields in errors.
    pub(crate) rename_all: Option<String>,
}

/// One rule of a field: the method of `FieldCheck` to call, and its argument.
pub(crate) struct Rule {
    pub(crate) method: syn::Ident,
    pub(crate) argument: Option<Expr>,
}

pub(crate) fn of_command(input: &DeriveInput) -> Result<CommandAttributes> {
    let (mut command_name, mut description, mut validate) = (None, None, None);
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("command")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("name") {
                once(&mut command_name, &meta, |value| value.parse::<LitStr>())
            } else if meta.path.is_ident("description") {
                once(&mut description, &meta, |value| value.parse::<LitStr>())
            } else if meta.path.is_ident("validate") {
                once(&mut validate, &meta, |value| value.parse::<Path>())
            } else {
                Err(meta.error("unknown key: a command takes `name`, `description` and `validate`"))
            }
        })?;
    }
    let Some(name) = command_name else {
        return Err(syn::Error::new(
            input.ident.span(),
            "a command needs a name: add `#[command(name = \"feature/kebab-name\")]`",
        ));
    };
    if let Some(objection) = name::objection(&name.value()) {
        return Err(syn::Error::new(name.span(), objection));
    }
    let description = description.map_or_else(|| doc_comment(&input.attrs), |text| text.value());
    Ok(CommandAttributes { name, description, validate, rename_all: serde_value(&input.attrs, "rename_all") })
}

/// The rules of a field, in the order written.
pub(crate) fn of_field(field: &Field) -> Result<Vec<Rule>> {
    let mut rules: Vec<Rule> = Vec::new();
    for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("command")) {
        attribute.parse_nested_meta(|meta| {
            let method = match meta.path.get_ident() {
                Some(name)
                    if ["required", "min_length", "max_length", "min_value", "max_value"]
                        .iter()
                        .any(|known| name == known) =>
                {
                    name.clone()
                }
                _ => {
                    return Err(meta.error(
                        "unknown rule: a field takes `required`, `min_length`, `max_length`, `min_value` and `max_value`",
                    ));
                }
            };
            if rules.iter().any(|rule| rule.method == method) {
                return Err(meta.error(format!("`{method}` is given twice")));
            }
            let argument = if method == "required" { None } else { Some(meta.value()?.parse()?) };
            rules.push(Rule { method, argument });
            Ok(())
        })?;
    }
    Ok(rules)
}

/// The name that a field has in JSON.
pub(crate) fn json_name(field: &Field, rename_all: Option<&str>) -> String {
    let ident = field.ident.as_ref().expect("only named fields have rules").to_string();
    let ident = ident.trim_start_matches("r#");
    if let Some(name) = serde_value(&field.attrs, "rename") {
        return name;
    }
    let words: Vec<&str> = ident.split('_').filter(|word| !word.is_empty()).collect();
    match rename_all {
        Some("camelCase") => {
            let (first, rest) = words.split_first().map_or(("", &[][..]), |(first, rest)| (*first, rest));
            first.to_string() + &rest.iter().map(|word| capitalized(word)).collect::<String>()
        }
        Some("PascalCase") => words.iter().map(|word| capitalized(word)).collect(),
        Some("kebab-case") => ident.replace('_', "-"),
        Some("SCREAMING-KEBAB-CASE") => ident.replace('_', "-").to_uppercase(),
        Some("SCREAMING_SNAKE_CASE" | "UPPERCASE") => ident.to_uppercase(),
        _ => ident.to_string(),
    }
}

fn capitalized(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

/// Reads a `key = value` into `slot`, and refuses a second one.
fn once<T>(
    slot: &mut Option<T>,
    meta: &ParseNestedMeta<'_>,
    parse: impl FnOnce(ParseStream<'_>) -> Result<T>,
) -> Result<()> {
    if slot.is_some() {
        return Err(meta.error("given twice"));
    }
    *slot = Some(parse(meta.value()?)?);
    Ok(())
}

/// The doc comment as one paragraph of plain text, up to the first empty line.
fn doc_comment(attributes: &[Attribute]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        let syn::Meta::NameValue(pair) = &attribute.meta else { continue };
        let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &pair.value else { continue };
        for line in text.value().lines().map(str::trim) {
            if line.is_empty() && !lines.is_empty() {
                return lines.join(" ");
            }
            if !line.is_empty() {
                lines.push(line.to_string());
            }
        }
        if text.value().trim().is_empty() && !lines.is_empty() {
            break;
        }
    }
    lines.join(" ")
}

/// `key`'s value in `#[serde(...)]`. Everything else in there is serde's business.
fn serde_value(attributes: &[Attribute], key: &str) -> Option<String> {
    let mut found = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        // What serde does not understand either, serde's own derive reports.
        let _ = attribute.parse_nested_meta(|meta| {
            if meta.input.peek(Token![=]) {
                let value: Expr = meta.value()?.parse()?;
                if let (true, Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) =
                    (meta.path.is_ident(key), value)
                {
                    found = Some(text.value());
                }
            } else if meta.input.peek(syn::token::Paren) {
                // `rename(serialize = "...", deserialize = "...")`: what is read is what a sender knows.
                meta.parse_nested_meta(|inner| {
                    let value: LitStr = inner.value()?.parse()?;
                    if meta.path.is_ident(key) && inner.path.is_ident("deserialize") {
                        found = Some(value.value());
                    }
                    Ok(())
                })?;
            }
            Ok(())
        });
    }
    found
}
