//! What a contributing source may say: about its own namespaces, and nothing else.
//!
//! Whatever such a source holds, no decision about another namespace's resource changes:
//! its policies match its own resources only, and its names are its own. The engine of a
//! proxy compiles with the same check, so that a bundle made elsewhere is held to it too.

use cedar_policy::{EntityUid, Policy, ResourceConstraint};
use palisade_mesh::{
    diagnostic::{Diagnostic, Location},
    spiffe_id::{SpiffeId, TrustDomain},
    yaml::Source,
};

use super::{
    codes, files,
    policies::Read,
    services::Declared,
    settings::{Settings, sources::Contributor},
};

/// What the source of one file may say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remit<'s> {
    domain: &'s TrustDomain,
    /// `None` for the repository itself, which may say everything.
    contributor: Option<&'s Contributor>,
}

impl<'s> Remit<'s> {
    /// The remit of the source that the file at `path` is from; `None` when the settings
    /// do not name it.
    pub(crate) fn of(path: &str, settings: &'s Settings) -> Option<Self> {
        let whole = Self::whole(settings);
        match files::source_of(path).0 {
            "" => Some(whole),
            name => Some(Self {
                contributor: Some(settings.sources.iter().find(|c| c.name == name)?),
                ..whole
            }),
        }
    }

    /// The remit of the repository itself.
    pub(crate) fn whole(settings: &'s Settings) -> Self {
        Self {
            domain: &settings.trust_domain,
            contributor: None,
        }
    }

    /// A service is declared in a namespace of its own, with identities there.
    pub(crate) fn check_service(&self, declared: &Declared, found: &mut Vec<Diagnostic>) {
        let Some(contributor) = self.contributor else {
            return;
        };
        let service = &declared.service;
        if !self.owns(&service.namespace) {
            found.push(
                Diagnostic::error(
                    codes::FOREIGN_SERVICE,
                    format!(
                        "source `{}` cannot declare service `{}`",
                        contributor.name,
                        service.id.short()
                    ),
                )
                .cause(self.own_namespaces(contributor))
                .help("declare it in the source that speaks for its namespace, or in the repository that lists the sources")
                .at(declared.at.clone()),
            );
        }
        for (identity, at) in declared.identities() {
            if !self.owns_identity(identity) {
                found.push(
                    Diagnostic::error(
                        codes::FOREIGN_IDENTITY,
                        format!("source `{}` cannot claim identity `{identity}`", contributor.name),
                    )
                    .cause(self.own_namespaces(contributor))
                    .help("its identities are `ns/NAMESPACE/…` of its own namespaces; any other is claimed in the repository that lists the sources")
                    .at(at.clone()),
                );
            }
        }
    }

    /// A policy is about a resource of its own.
    pub(crate) fn check_policy(&self, policy: &Policy, read: &Read, found: &mut Vec<Diagnostic>) {
        let Some(contributor) = self.contributor else {
            return;
        };
        let about = match policy.resource_constraint() {
            ResourceConstraint::Eq(uid)
            | ResourceConstraint::In(uid)
            | ResourceConstraint::IsIn(_, uid) => {
                if self.owns_resource(&uid) {
                    return;
                }
                format!("`{uid}`, which is not its own")
            }
            ResourceConstraint::Any | ResourceConstraint::Is(_) => {
                "resources of everybody".to_owned()
            }
        };
        let own = contributor
            .namespaces
            .first()
            .map_or("shop", |n| n.as_str());
        found.push(
            Diagnostic::error(
                codes::FOREIGN_RESOURCE,
                format!(
                    "policy `{}` of source `{}` is about {about}",
                    read.info.id, contributor.name
                ),
            )
            .cause(self.own_namespaces(contributor))
            .help(format!(
                "write `resource in Namespace::\"{}/{own}\"`, or a service or operation of it; what holds for others belongs into the repository that lists the sources",
                self.domain
            ))
            .at(read.find("resource")),
        );
    }

    /// A group is under the name of a namespace of its own.
    pub(crate) fn check_group(&self, name: &str, at: &Location) -> Option<Diagnostic> {
        let own = |c: &Contributor| {
            let namespace = name.split_once('.').map(|(namespace, _)| namespace);
            namespace.is_some_and(|n| c.namespaces.iter().any(|own| own == n))
        };
        let contributor = self.contributor.filter(|c| !own(c))?;
        let namespace = contributor
            .namespaces
            .first()
            .map_or("shop", |n| n.as_str());
        Some(
            Diagnostic::error(
                codes::FOREIGN_ENTITY,
                format!("source `{}` cannot declare group `{name}`", contributor.name),
            )
            .cause("policies of others could name it; a group of a source begins with its namespace and a `.`")
            .help(format!("call it `{namespace}.{name}`"))
            .at(at.clone()),
        )
    }

    /// Users are people of the whole mesh.
    pub(crate) fn check_user(&self, name: &str, at: &Location) -> Option<Diagnostic> {
        let contributor = self.contributor?;
        Some(
            Diagnostic::error(
                codes::FOREIGN_ENTITY,
                format!("source `{}` cannot declare user `{name}`", contributor.name),
            )
            .cause("a user is the same person to every service of the mesh")
            .help("declare users in the repository that lists the sources, and groups of them here")
            .at(at.clone()),
        )
    }

    /// Attributes are of a service in a namespace of its own; `service` is `NAMESPACE/NAME`.
    pub(crate) fn check_attributes(&self, service: &str, at: &Location) -> Option<Diagnostic> {
        let namespace = service.split('/').next().unwrap_or_default();
        let contributor = self.contributor.filter(|_| !self.owns(namespace))?;
        Some(
            Diagnostic::error(
                codes::FOREIGN_ENTITY,
                format!(
                    "source `{}` cannot set attributes of service `{service}`",
                    contributor.name
                ),
            )
            .cause(self.own_namespaces(contributor))
            .help("set them in the source that speaks for the service's namespace")
            .at(at.clone()),
        )
    }

    fn owns(&self, namespace: &str) -> bool {
        self.contributor
            .is_none_or(|c| c.namespaces.iter().any(|own| own == namespace))
    }

    fn owns_identity(&self, identity: &SpiffeId) -> bool {
        let path = identity
            .as_str()
            .strip_prefix("spiffe://")
            .unwrap_or_default();
        let mut parts = path.split('/').skip(1);
        let (kind, namespace) = (parts.next(), parts.next());
        kind == Some("ns") && namespace.is_some_and(|n| self.owns(n)) && parts.next().is_some()
    }

    fn owns_resource(&self, uid: &EntityUid) -> bool {
        let kind = uid.type_name().to_string();
        let id = uid.id().unescaped();
        let Some(inside) = id
            .strip_prefix(self.domain.as_str())
            .and_then(|r| r.strip_prefix('/'))
        else {
            return false;
        };
        match (kind.as_str(), inside.split_once('/')) {
            ("Namespace", None) => self.owns(inside),
            ("Service" | "Operation", Some((namespace, _))) => self.owns(namespace),
            _ => false,
        }
    }

    fn own_namespaces(&self, contributor: &Contributor) -> String {
        format!(
            "`palisade.yaml` lets `{}` speak for {} only",
            contributor.name,
            contributor.namespaces.join(", ")
        )
    }
}

/// Files that stand in the bundle under the name of a source that the settings do not list,
/// or that only the repository itself may have.
pub(crate) fn check_files(files: &[Source], settings: &Settings, found: &mut Vec<Diagnostic>) {
    for file in files {
        let (source, path) = files::source_of(&file.path);
        let known = Remit::of(&file.path, settings).is_some();
        let diagnostic = if !known && files::is_contributed(path) {
            Diagnostic::error(
                codes::SOURCE_UNKNOWN,
                format!("there is no source `{source}`"),
            )
            .cause("`sources` in palisade.yaml does not name it")
            .help("fetch the bundle again; if it stays so, rebuild it")
        } else if known && !source.is_empty() && !files::is_contributed(path) {
            Diagnostic::error(
                codes::FOREIGN_FILE,
                format!("source `{source}` cannot have a file `{path}`"),
            )
            .cause("schema and settings hold for everybody; a source contributes services, policies, entities and tests")
            .help("move what it says into the repository that lists the sources")
        } else {
            continue;
        };
        found.push(diagnostic.at(file.line(1)));
    }
}
