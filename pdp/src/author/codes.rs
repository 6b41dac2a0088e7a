//! The numbers of the compiler's diagnostics, in one place so that none is used twice.
//!
//! `docs/reference/policy-repository.md` lists them with cause and fix.

/// No `palisade.yaml`.
pub const NOT_A_REPOSITORY: u16 = 1001;
/// A file or folder cannot be read.
pub const UNREADABLE: u16 = 1002;
/// A file exceeds [`super::FILE_LEN_MAX`].
pub const FILE_TOO_LARGE: u16 = 1003;
/// A file is not UTF-8.
pub const NOT_UTF8: u16 = 1004;
/// More than [`super::POLICIES_MAX`] policies.
pub const TOO_MANY_POLICIES: u16 = 1005;
/// More files or bytes than a repository may have.
pub const REPOSITORY_TOO_LARGE: u16 = 1006;
/// YAML does not parse.
pub const YAML_SYNTAX: u16 = 1007;
/// Nesting or size of one policy beyond the limit.
pub const TOO_DEEP: u16 = 1008;
/// A key that nothing reads.
pub const UNKNOWN_KEY: u16 = 1009;
/// A key that must be there.
pub const MISSING_KEY: u16 = 1010;
/// A list where a text should be, and the like.
pub const WRONG_KIND: u16 = 1011;
/// A value that is none of those allowed.
pub const INVALID_VALUE: u16 = 1012;
/// One key twice in one map.
pub const DUPLICATE_KEY: u16 = 1014;
/// Trust domain is not one.
pub const TRUST_DOMAIN: u16 = 1021;
/// Name of a service, namespace, operation or group has wrong characters.
pub const NAME: u16 = 1022;
/// Two files declare one service.
pub const SERVICE_TWICE: u16 = 1023;
/// Not a SPIFFE ID of the trust domain.
pub const IDENTITY: u16 = 1024;
/// Identity is reserved for the mesh's own parts.
pub const IDENTITY_RESERVED: u16 = 1025;
/// Two services claim one identity.
pub const IDENTITY_TWICE: u16 = 1026;
/// Not a host.
pub const HOST: u16 = 1027;
/// Two services claim one host.
pub const HOST_TWICE: u16 = 1028;
/// `match` of an operation is malformed.
pub const OPERATION_MATCH: u16 = 1029;
/// Two operations of a service could match one request.
pub const OPERATIONS_OVERLAP: u16 = 1030;
/// Two operations of a service share a name.
pub const OPERATION_TWICE: u16 = 1031;
/// Business action is malformed, reserved or used for two protocols.
pub const ACTION_NAME: u16 = 1032;
/// Not a header name, or one that policies must not read.
pub const HEADER: u16 = 1033;
/// Not `IP:PORT`.
pub const ENDPOINT: u16 = 1034;
/// Not a duration, or out of bounds.
pub const DURATION: u16 = 1035;
/// Not a field of a record that policy can mask.
pub const MASK_FIELD: u16 = 1036;
/// A mask names a field twice.
pub const MASK_TWICE: u16 = 1037;
/// A member, service or user that does not exist.
pub const UNKNOWN_MEMBER: u16 = 1041;
/// A group, user or label declared twice.
pub const DECLARED_TWICE: u16 = 1042;
/// Groups that contain each other.
pub const GROUP_CYCLE: u16 = 1043;
/// Entities do not fit the schema.
pub const ENTITIES: u16 = 1044;
/// Cedar text does not parse.
pub const CEDAR_SYNTAX: u16 = 1100;
/// Schema does not parse or clashes with the generated vocabulary.
pub const SCHEMA: u16 = 1101;
/// Action is not in the schema.
pub const UNKNOWN_ACTION: u16 = 1103;
/// Entity type is not in the schema.
pub const UNKNOWN_TYPE: u16 = 1104;
/// Attribute or tag does not exist.
pub const UNKNOWN_ATTRIBUTE: u16 = 1105;
/// Types do not fit.
pub const TYPES: u16 = 1106;
/// Action does not apply to principal and resource of the scope.
pub const ACTION_NEVER_APPLIES: u16 = 1107;
/// Function, argument or set is wrong.
pub const FUNCTION: u16 = 1108;
/// Attributes of attributes: deeper than level 1.
pub const LEVEL: u16 = 1109;
/// Policy without `@id`.
pub const ID_MISSING: u16 = 1110;
/// Two policies with one `@id`.
pub const ID_TWICE: u16 = 1111;
/// `@id` has wrong characters.
pub const ID_INVALID: u16 = 1112;
/// Annotation that nothing reads.
pub const ANNOTATION_UNKNOWN: u16 = 1113;
/// `@mode` or `@expires` on a `forbid`.
pub const FORBID_WEAKENED: u16 = 1114;
/// Value of an annotation is wrong.
pub const ANNOTATION_VALUE: u16 = 1115;
/// Templates are not used here.
pub const TEMPLATE: u16 = 1116;
/// A `forbid` reads an optional attribute without `has`.
pub const FORBID_OPTIONAL: u16 = 1120;
/// A `permit` reads an optional attribute without `has`.
pub const PERMIT_OPTIONAL: u16 = 1121;
/// Policy names an entity that does not exist.
pub const UNKNOWN_ENTITY: u16 = 1130;
/// Policy can never match.
pub const IMPOSSIBLE: u16 = 1140;
/// Characters that look like others.
pub const CONFUSABLE: u16 = 1141;
/// More diagnostics than are told.
pub const MORE: u16 = 1199;
/// An invariant that is a `permit`.
pub const INVARIANT_PERMIT: u16 = 2320;
/// `permit` without any constraint.
pub const PERMIT_ALL: u16 = 1150;

/// A Cedar file is not in the one layout.
pub const LAYOUT: u16 = 1160;

/// Policy without `@owner`.
pub const OWNER_MISSING: u16 = 1161;
/// `permit` whose scope names nobody.
pub const UNSCOPED_PERMIT: u16 = 1162;
/// `like "*"`.
pub const LIKE_EVERYTHING: u16 = 1163;
/// Pattern for a path that does not begin with `/`.
pub const LIKE_UNANCHORED: u16 = 1164;
/// `like` without `*`.
pub const LIKE_EXACT: u16 = 1165;
/// Part of a condition that is always true, or always false.
pub const CONSTANT: u16 = 1166;
/// Alternative that can never be true.
pub const UNREACHABLE: u16 = 1167;
/// Policy that another one makes superfluous.
pub const SHADOWED: u16 = 1168;
/// Permit past its `@expires`.
pub const EXPIRED: u16 = 1169;
/// Permit that soon expires.
pub const EXPIRES_SOON: u16 = 1170;
/// Too many policies that every request has to evaluate.
pub const MANY_UNSCOPED: u16 = 1171;
/// Policy that decides no test.
pub const UNTESTED: u16 = 1172;
/// Group that no policy names.
pub const UNUSED_GROUP: u16 = 1173;
/// Header that no policy reads.
pub const UNUSED_HEADER: u16 = 1174;
/// Operation that no permit reaches.
pub const UNUSED_OPERATION: u16 = 1175;
/// Policy about requests that nobody can make.
pub const NEVER_ASKED: u16 = 1176;
/// Condition on what no request carries.
pub const NEVER_CARRIED: u16 = 1177;
/// No lint rule is called that.
pub const LINT_RULE: u16 = 1180;

/// Not the name of a source.
pub const SOURCE_NAME: u16 = 1300;
/// Not a place of a source.
pub const SOURCE_PLACE: u16 = 1301;
/// Two sources for one namespace, or none.
pub const SOURCE_NAMESPACES: u16 = 1302;
/// Not a signer.
pub const SOURCE_SIGNER: u16 = 1303;
/// More sources than a repository may have.
pub const TOO_MANY_SOURCES: u16 = 1304;
/// A source is not on this host, so what it contributes is not seen here.
pub const SOURCE_ELSEWHERE: u16 = 1305;
/// Files of a source that the settings do not name.
pub const SOURCE_UNKNOWN: u16 = 1306;
/// A source contributes nothing.
pub const SOURCE_EMPTY: u16 = 1307;
/// An option about sources is about none.
pub const SOURCE_OPTION: u16 = 1309;
/// A contributing source declares a service of another's namespace.
pub const FOREIGN_SERVICE: u16 = 1310;
/// A contributing source claims an identity of another's namespace.
pub const FOREIGN_IDENTITY: u16 = 1311;
/// A contributing source has a policy about what is not its own.
pub const FOREIGN_RESOURCE: u16 = 1312;
/// A contributing source declares a group, a user or attributes that are not its own.
pub const FOREIGN_ENTITY: u16 = 1313;
/// A contributing source has a file that only the repository itself may have.
pub const FOREIGN_FILE: u16 = 1314;

/// No test to run.
pub const NO_TESTS: u16 = 2001;
/// Nobody is called that.
pub const TEST_PRINCIPAL: u16 = 2010;
/// No service is called that.
pub const TEST_TARGET: u16 = 2011;
/// Neither method nor action.
pub const TEST_ACTION: u16 = 2012;
/// The request would be refused before it is decided.
pub const TEST_REQUEST: u16 = 2013;
/// A case came out otherwise than expected.
pub const TEST_FAILED: u16 = 2003;
/// A test expects a policy that does not exist.
pub const TEST_POLICY: u16 = 2014;
/// Context of a question cannot be used.
pub const TEST_CONTEXT: u16 = 2016;
/// A test names a fixture that does not exist.
pub const TEST_FIXTURE: u16 = 2020;
/// A policy failed to evaluate in a test.
pub const TEST_ERRED: u16 = 2022;
/// A file of Cedar tests is no JSON.
pub const TEST_JSON: u16 = 2023;
/// A Cedar test has a request that no proxy puts.
pub const TEST_CEDAR: u16 = 2024;
/// Entities of a Cedar test cannot be used.
pub const TEST_ENTITIES: u16 = 2025;

/// Bundle needs a feature that this program lacks.
pub const FEATURE_UNKNOWN: u16 = 3001;
/// Bundle bytes are not a bundle.
pub const BUNDLE_BROKEN: u16 = 3002;
