//! Environment variables of a container, and what the kubelet puts for `$(NAME)`.

use std::collections::HashMap;

use super::tree::{Budget, Tree};
use super::typed::{maps, text};
use crate::doctor::Variable;
use crate::error::Result;

/// The data of the ConfigMaps among the manifests.
#[derive(Default)]
pub(super) struct ConfigMaps<'t, 'a> {
    /// By name and namespace.
    exact: HashMap<(&'t str, Option<&'t str>), &'t Tree<'a>>,
    /// The first of each name.
    first: HashMap<&'t str, &'t Tree<'a>>,
}

impl<'t, 'a> ConfigMaps<'t, 'a> {
    pub(super) fn add(&mut self, name: &'t str, namespace: Option<&'t str>, data: &'t Tree<'a>) {
        self.exact.insert((name, namespace), data);
        self.first.entry(name).or_insert(data);
    }

    /// The one that a pod means; a manifest without a namespace goes into that of the others.
    fn get(&self, name: &'t str, namespace: Option<&'t str>) -> Option<&'t Tree<'a>> {
        let found = match namespace {
            Some(_) => self.exact.get(&(name, namespace)).or_else(|| self.exact.get(&(name, None))),
            None => self.first.get(name),
        };
        found.copied()
    }
}

/// The variables of a container, of which each name is there once, and whether more come from elsewhere.
pub(super) fn read<'t>(
    container: &'t Tree<'_>,
    namespace: Option<&'t str>,
    configs: &ConfigMaps<'t, '_>,
    budget: &mut Budget,
) -> Result<(Vec<Variable>, bool)> {
    let config = |name: &'t str| configs.get(name, namespace);
    let mut variables = Vec::new();
    let mut values: HashMap<String, Option<String>> = HashMap::new();
    let mut elsewhere = false;
    for source in maps(container, "envFrom") {
        let prefix = text(source, "prefix").unwrap_or_default();
        match source.text_at(&["configMapRef", "name"]).and_then(config) {
            None => elsewhere = true,
            Some(data) => {
                for (key, value) in data.entries() {
                    let (name, value) = (format!("{prefix}{key}"), value.text().map(str::to_owned));
                    budget.take(container.file, name.len() + value.as_deref().map_or(0, str::len))?;
                    variables.push(Variable { place: source.place(), name: name.clone(), value: value.clone() });
                    values.insert(name, value);
                }
            }
        }
    }
    for entry in maps(container, "env") {
        let Some(name) = text(entry, "name") else { continue };
        let from = entry.get("valueFrom");
        let value = match from {
            Some(from) => {
                let key = from.text_at(&["configMapKeyRef", "key"]);
                let data = from.text_at(&["configMapKeyRef", "name"]).and_then(config);
                // Looking for a key takes a look at each.
                budget.take(container.file, data.map_or(0, |data| data.entries().len()))?;
                data.zip(key).and_then(|(data, key)| data.text_at(&[key])).map(str::to_owned)
            }
            None => {
                let written = text(entry, "value").unwrap_or_default();
                expand(written, &values, container.file, budget)?
            }
        };
        values.insert(name.to_owned(), value.clone());
        variables.push(Variable { place: entry.get("value").unwrap_or(entry).place(), name: name.to_owned(), value });
    }
    let last: HashMap<String, usize> =
        variables.iter().enumerate().map(|(at, variable)| (variable.name.clone(), at)).collect();
    let mut at = 0..;
    variables.retain(|variable| last.get(&variable.name).copied() == at.next());
    Ok((variables, elsewhere))
}

/// Puts variables into a text as the kubelet does (`third_party/forked/golang/expansion`): `$(NAME)` of a variable that is
/// not there stays, `$$` is `$`. `None` if a value is not known.
pub(super) fn expand(
    text: &str,
    values: &HashMap<String, Option<String>>,
    file: &str,
    budget: &mut Budget,
) -> Result<Option<String>> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut known = true;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match values.get(name) {
                Some(Some(value)) => {
                    budget.take(file, value.len())?;
                    out.push_str(value);
                }
                Some(None) => known = false,
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    budget.take(file, out.len())?;
    Ok(known.then_some(out))
}

#[cfg(test)]
mod tests {
    use super::super::tree::resolve;
    use super::*;
    use crate::kubernetes::yaml;

    #[test]
    fn variables_are_put_in_as_the_kubelet_does() {
        let values: HashMap<_, _> = [("A", Some("1")), ("B", None), ("C", Some("$(A)"))]
            .map(|(k, v)| (k.to_owned(), v.map(str::to_owned)))
            .into();
        for (text, expected) in [
            ("", Some("")),
            ("x$(A)y", Some("x1y")),
            ("$(A)$(A)", Some("11")),
            ("$(B)", None),
            ("$(C)", Some("$(A)")),
            ("$(NONE)", Some("$(NONE)")),
            ("$$(A)", Some("$(A)")),
            ("$A ${A} $", Some("$A ${A} $")),
            ("$(A", Some("$(A")),
            ("$()", Some("$()")),
        ] {
            assert_eq!(expand(text, &values, "f", &mut Budget::default()).unwrap().as_deref(), expected, "{text}");
        }
    }

    fn shown(text: &str) -> Result<String> {
        let stream = yaml::read(text, "f").unwrap();
        let tree = resolve(stream.documents[0].root.as_ref().unwrap(), "f", &mut Budget::default()).unwrap();
        let mut configs = ConfigMaps::default();
        for (name, data) in tree.get("configs").map(Tree::entries).unwrap_or_default() {
            configs.add(name, Some("a"), data);
        }
        let (variables, elsewhere) = read(&tree, tree.text_at(&["namespace"]), &configs, &mut Budget::default())?;
        let one = |v: &Variable| format!("{}={}@{}", v.name, v.value.as_deref().unwrap_or("?"), v.place);
        Ok(format!("{}{}", variables.iter().map(one).collect::<Vec<_>>().join(" "), if elsewhere { " +" } else { "" }))
    }

    #[test]
    fn the_last_of_a_name_wins() {
        for (text, expected) in [
            ("env: [{name: A, value: x}, {name: A, value: z}]", "A=z@f:1"),
            ("env:\n- name: A\n  value: x\n- name: B\n- name: C\n  value: $(A)-$(B)", "A=x@f:3 B=@f:4 C=x-@f:6"),
            (
                "env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}, {name: B, value: $(A)}]",
                "A=?@f:1 B=?@f:1",
            ),
            ("envFrom: [{secretRef: {name: s}}]", " +"),
            (
                "configs: {c: {K: v}}\nenvFrom: [{prefix: P_, configMapRef: {name: c}}]\nenv: [{name: L, value: $(P_K)}]",
                "P_K=v@f:2 L=v@f:3",
            ),
            ("configs: {c: {K: v}}\nenvFrom: [{configMapRef: {name: c}}]\nenv: [{name: K, value: w}]", "K=w@f:3"),
            ("configs: {c: {K: v}}\nenv: [{name: L, valueFrom: {configMapKeyRef: {name: c, key: K}}}]", "L=v@f:2"),
            ("configs: {c: {K: v}}\nnamespace: b\nenvFrom: [{configMapRef: {name: c}}]", " +"),
        ] {
            assert_eq!(shown(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn variables_that_double_are_refused() {
        let mut text = "env:\n- {name: V0, value: xxxxxxxxxxxxxxxx}\n".to_owned();
        for at in 1..64 {
            text += &format!("- {{name: V{at}, value: $(V{})$(V{})}}\n", at - 1, at - 1);
        }
        assert!(shown(&text).unwrap_err().to_string().contains("f grows beyond"));
    }
}
