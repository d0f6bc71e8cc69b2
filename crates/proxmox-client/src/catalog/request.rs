//! One request: a call with its values, checked as they are put in. The first value that cannot be
//! sent is kept and becomes the error of sending; nothing reaches the wire.

use std::fmt::Display;

use super::{Call, Verb};

/// A call that is being filled in.
#[derive(Debug)]
pub(crate) struct Request<T: 'static> {
    pub(crate) call: &'static Call<T>,
    pub(crate) segments: Vec<String>,
    pub(crate) params: Vec<(String, String)>,
    pub(crate) wrong: Option<String>,
}

impl<T> Request<T> {
    pub(super) fn new(call: &'static Call<T>, values: &[&str]) -> Self {
        let mut values = values.iter();
        let mut wrong = None;
        let segments = call.shape.path.split('/').filter(|part| !part.is_empty()).map(|part| {
            if part.starts_with('{') {
                let value = values.next().copied();
                value.unwrap_or_else(|| {
                    wrong = Some(format!("the path of `{}` lacks a value for {part}", call.shape.name));
                    part
                })
            } else {
                part
            }
        });
        let segments = segments.map(str::to_owned).collect();
        if values.next().is_some() {
            wrong = Some(format!("the path of `{}` has fewer places than values", call.shape.name));
        }
        Self { call, segments, params: Vec::new(), wrong }
    }

    /// Puts a parameter in.
    pub(crate) fn set(mut self, name: &str, value: impl Display) -> Self {
        let value = value.to_string();
        let why = match self.call.shape.params.iter().find(|param| param.is(name)) {
            Some(param) => param.refuse(&value),
            None => Some(format!("`{}` has no parameter `{name}`", self.call.shape.name)),
        };
        if self.params.iter().any(|(known, _)| known == name) {
            self.wrong.get_or_insert_with(|| format!("`{name}` was given twice"));
        }
        if let Some(why) = why {
            self.wrong.get_or_insert(why);
        }
        self.params.push((name.to_owned(), value));
        self
    }

    /// Puts a parameter in if there is a value.
    pub(crate) fn opt(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.set(name, value),
            None => self,
        }
    }

    /// Puts an array in: Proxmox makes one of keys that are repeated (`pve/facts.md` 3.3).
    pub(crate) fn each<V: Display>(mut self, name: &str, values: impl IntoIterator<Item = V>) -> Self {
        for (at, value) in values.into_iter().enumerate() {
            if at == 0 {
                self = self.set(name, value);
                continue;
            }
            let value = value.to_string();
            let why = self.call.shape.params.iter().find(|param| param.is(name));
            if let Some(why) = why.and_then(|param| param.refuse(&value)) {
                self.wrong.get_or_insert(why);
            }
            self.params.push((name.to_owned(), value));
        }
        self
    }

    /// 1 or 0, always explicit.
    pub(crate) fn flag(self, name: &str, value: bool) -> Self {
        self.set(name, u8::from(value))
    }

    /// 1, or nothing where that is the default.
    pub(crate) fn flag_if(self, name: &str, value: bool) -> Self {
        if value { self.set(name, 1) } else { self }
    }

    /// Refuses the request for a reason of the caller's.
    pub(crate) fn refuse_if(mut self, wrong: bool, why: impl Display) -> Self {
        if wrong {
            self.wrong.get_or_insert_with(|| why.to_string());
        }
        self
    }

    pub(crate) fn is_read(&self) -> bool {
        self.call.shape.verb == Verb::Get
    }
}
