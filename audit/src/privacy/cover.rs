//! Takes what is personal out of a record, before it is encoded.

use palisade_mesh::wire::record::{
    Cover, Decision, Disclosure, Record, cover::Handling, record::Body,
};
use serde_json::{Map, Value};

use super::{LIST_VALUES_MAX, Personal, Rules, VALUES_MAX, commitment};

impl Rules {
    /// `record` without what is personal; `None` when nothing in it is.
    pub(crate) fn cover(&self, record: &Record) -> Option<Record> {
        if self.is_empty() || !self.concern(record) {
            return None;
        }
        let mut record = record.clone();
        let mut taken = Taken {
            rules: self,
            covers: Vec::new(),
            disclosures: Vec::new(),
        };
        match &mut record.body {
            Some(Body::AuthnFailure(f)) => taken.source(&mut f.source_ip, &mut f.source_port),
            Some(Body::Call(c)) => taken.text(&Personal::Path, &mut c.path),
            Some(Body::Decision(d)) => taken.decision(d),
            Some(Body::PolicyChange(c)) => taken.list(&Personal::Author, &mut c.authors),
            _ => {}
        }
        let Taken {
            covers,
            disclosures,
            ..
        } = taken;
        if covers.is_empty() {
            return None;
        }
        record.covers = covers;
        record.disclosures = disclosures;
        Some(record)
    }

    /// Whether a record has something that these may take out. Most have nothing of what few
    /// rules name, and are not copied.
    pub(super) fn concern(&self, record: &Record) -> bool {
        let has = |field, text: &str| !text.is_empty() && self.of(field).is_some();
        match &record.body {
            Some(Body::AuthnFailure(f)) => has(&Personal::SourceIp, &f.source_ip),
            Some(Body::Call(c)) => has(&Personal::Path, &c.path),
            Some(Body::Decision(d)) => {
                has(&Personal::SourceIp, &d.source_ip)
                    || has(&Personal::Path, &d.path)
                    || (!d.context_json.is_empty() && self.concern_context())
            }
            Some(Body::PolicyChange(c)) => c.authors.iter().any(|a| has(&Personal::Author, a)),
            _ => false,
        }
    }
}

/// What was taken out of a record so far.
struct Taken<'r> {
    rules: &'r Rules,
    covers: Vec<Cover>,
    disclosures: Vec<Disclosure>,
}

impl Taken<'_> {
    fn decision(&mut self, decision: &mut Decision) {
        self.source(&mut decision.source_ip, &mut decision.source_port);
        self.text(&Personal::Path, &mut decision.path);
        if !decision.context_json.is_empty() {
            self.context(&mut decision.context_json);
        }
    }

    fn source(&mut self, ip: &mut String, port: &mut u32) {
        if self.rules.of(&Personal::SourceIp).is_some() {
            *port = 0;
        }
        self.text(&Personal::SourceIp, ip);
    }

    fn text(&mut self, field: &Personal, text: &mut String) {
        if let Some(handling) = self.rules.of(field)
            && !text.is_empty()
        {
            self.take(field, handling, text);
            text.clear();
        }
    }

    fn list(&mut self, field: &Personal, values: &mut Vec<String>) {
        if let Some(handling) = self.rules.of(field) {
            let mut taken = std::mem::take(values);
            taken.retain(|value| !value.is_empty());
            self.keep(vec![(field, handling, taken)], VALUES_MAX);
        }
    }

    /// What policies read of a request. A value that is taken out was not recorded, for
    /// whoever replays the decision; one that was looked for and absent stays so.
    fn context(&mut self, text: &mut String) {
        let read = match serde_json::from_str(text) {
            Ok(Value::Object(context)) => Some(context),
            _ => None,
        };
        let headers = read.as_ref().and_then(|context| {
            let headers = context.get("http")?.get("headers")?;
            headers.as_object()
        });
        if self.rules.has_allow_list() && read.as_ref().is_none_or(has_other_headers) {
            // What is not a list of headers may hold anything, which nobody allowed.
            text.clear();
            self.mask(&Personal::Header("*".to_owned()));
            let rules = self.rules.of_context(std::iter::empty());
            return rules.keys().for_each(|field| self.mask(field));
        }
        let headers = headers.into_iter().flat_map(Map::keys).cloned();
        let mut rules = self.rules.of_context(headers);
        rules.retain(|field, _| *field != Personal::Author);
        if rules.is_empty() {
            return;
        }
        let Some(mut context) = read else {
            // What cannot be read may hold anything.
            text.clear();
            return rules.keys().for_each(|field| self.mask(field));
        };
        let mut changed = false;
        let mut kept: Vec<(&Personal, Handling, Vec<String>)> = Vec::new();
        for (field, handling) in rules.iter().map(|(field, handling)| (field, *handling)) {
            let found = take_out(&mut context, field);
            changed |= found.is_some();
            match (field, found) {
                (_, None) => {}
                (Personal::User, Some(user)) => match name_of(&user) {
                    Some(name) => kept.push((field, handling, vec![name.to_owned()])),
                    None => self.mask(field),
                },
                // The same as the decision's own.
                (Personal::Path | Personal::SourceIp, Some(_)) if self.has(field) => {}
                (_, Some(value)) => kept.push((field, handling, texts(value))),
            }
            if *field == Personal::SourceIp {
                changed |= remove(&mut context, &["source", "port"]).is_some();
            }
            // Claims of the token are the user's, too.
            if *field == Personal::User && remove(&mut context, &["jwt"]).is_some() {
                changed = true;
                if !self.has(field) && kept.iter().all(|(kept, ..)| *kept != field) {
                    self.mask(field);
                }
            }
        }
        self.keep(kept, LIST_VALUES_MAX);
        if changed {
            *text = Value::Object(context).to_string();
        }
    }

    /// Takes values that were found; those of lists last, and at most so many of each.
    fn keep(&mut self, mut kept: Vec<(&Personal, Handling, Vec<String>)>, most: usize) {
        kept.sort_by_key(|(_, _, values)| values.len() > 1);
        for (field, handling, values) in kept {
            for value in values.iter().take(most) {
                self.take(field, handling, value);
            }
            if values.len() > most {
                self.mask(field);
            }
        }
    }

    fn take(&mut self, field: &Personal, handling: Handling, value: &str) {
        let committed = (handling != Handling::Masked && self.disclosures.len() < VALUES_MAX)
            .then(|| commitment::commit(field, handling, value))
            .flatten();
        match committed {
            Some((cover, disclosure)) => {
                self.covers.push(cover);
                self.disclosures.push(disclosure);
            }
            None => self.mask(field),
        }
    }

    fn mask(&mut self, field: &Personal) {
        let cover = Cover {
            field: field.to_string(),
            handling: Handling::Masked.into(),
            commitment: Vec::new(),
        };
        if !self.covers.contains(&cover) {
            self.covers.push(cover);
        }
    }

    fn has(&self, field: &Personal) -> bool {
        let field = field.to_string();
        self.covers.iter().any(|cover| cover.field == field)
    }
}

/// Whether the headers of a context are something else than headers.
fn has_other_headers(context: &Map<String, Value>) -> bool {
    let Some(http) = context.get("http") else {
        return false;
    };
    let is_list = |headers: &Value| headers.is_object() || headers.is_null();
    !http.is_object() || !http.get("headers").is_none_or(is_list)
}

/// Takes a field out of the recorded context, from everywhere it stands.
fn take_out(context: &mut Map<String, Value>, field: &Personal) -> Option<Value> {
    match field {
        Personal::Author => None,
        Personal::Header(name) => remove(context, &["http", "headers", name]),
        // Service and method of gRPC are the two halves of its path.
        Personal::Path => {
            let places = [["http", "path"], ["grpc", "service"], ["grpc", "method"]];
            let [path, service, method] = places.map(|place| remove(context, &place));
            path.or(service).or(method)
        }
        Personal::Query => remove(context, &["http", "query"]),
        Personal::SourceIp => remove(context, &["source", "ip"]),
        Personal::User => remove(context, &["user"]),
    }
}

/// Takes a value out, unless it says that there was none.
fn remove(record: &mut Map<String, Value>, path: &[&str]) -> Option<Value> {
    match path {
        [] => None,
        [name] => match record.get(*name) {
            None | Some(Value::Null) => None,
            Some(_) => record.remove(*name),
        },
        [name, rest @ ..] => remove(record.get_mut(*name)?.as_object_mut()?, rest),
    }
}

/// Of a user its name is kept, what else is known of it is gone.
fn name_of(user: &Value) -> Option<&str> {
    let named = ["sub", "id"].iter().find_map(|name| user.get(name));
    named.unwrap_or(user).as_str()
}

/// The values of a field that has one or several.
fn texts(value: Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.into_iter().flat_map(texts).collect(),
        other => vec![other.to_string()],
    }
}
