//! What operators have asked for, kept until it is done: a forced rotation goes on
//! after a crash or a restart.

use super::KeyId;

/// Open orders; an order names the authority it is to replace, so one that is done
/// asks for nothing any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Replace this root.
    pub(crate) root: Option<KeyId>,
    /// Replace this intermediate.
    pub(crate) intermediate: Option<KeyId>,
    /// Revoke what is tainted without waiting for anybody.
    pub(crate) revoke_now: bool,
}

impl Orders {
    /// As it is stored: three words.
    pub(crate) fn to_text(&self) -> String {
        let word = |id: &Option<KeyId>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let when = if self.revoke_now {
            "now"
        } else {
            "acknowledged"
        };
        format!("{} {} {when}", word(&self.root), word(&self.intermediate))
    }

    /// From what was stored; `None` when it was something else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut id = || match words.next()? {
            "-" => Some(None),
            hex => KeyId::from_hex(hex).map(Some),
        };
        let (root, intermediate) = (id()?, id()?);
        let revoke_now = match words.next()? {
            "now" => true,
            "acknowledged" => false,
            _ => return None,
        };
        words.next().is_none().then_some(Self {
            root,
            intermediate,
            revoke_now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_disk() {
        let id = KeyId::from_slice(&[0xab; 20]);
        for orders in [
            Orders::default(),
            Orders {
                root: id,
                intermediate: None,
                revoke_now: true,
            },
            Orders {
                root: None,
                intermediate: id,
                revoke_now: false,
            },
        ] {
            assert_eq!(Orders::parse(&orders.to_text()), Some(orders));
        }
        for bad in ["", "-", "- -", "- - soon", "- - now x", "ab - now"] {
            assert_eq!(Orders::parse(bad), None, "{bad}");
        }
    }
}
