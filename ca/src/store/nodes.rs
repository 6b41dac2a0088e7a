//! What the store keeps of joining. A token is spent by one statement that both
//! compares and deletes; whether it did is read from the count of rows, so that of
//! any number of hosts with one token exactly one gets in.

use sqlx::{Row, query, sqlite::SqliteRow};

use super::{Store, StoreError, writing};
use crate::{
    join::{NodeName, NodeRole},
    trust::DirectoryEntry,
};

/// Most tokens that wait to be spent.
pub(crate) const TOKENS_MAX: i64 = 1000;
/// Most nodes.
pub(crate) const NODES_MAX: i64 = 10_000;

/// A token as it is kept: without its secret.
#[derive(Debug, Clone)]
pub(crate) struct TokenRow {
    pub(crate) id: String,
    pub(crate) secret_hash: [u8; 32],
    pub(crate) node: NodeName,
    pub(crate) roles: Vec<NodeRole>,
    pub(crate) created_s: i64,
    pub(crate) expires_s: i64,
}

/// A node as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRow {
    pub(crate) name: NodeName,
    pub(crate) spki: Vec<u8>,
    pub(crate) roles: Vec<NodeRole>,
    pub(crate) joined_s: i64,
    pub(crate) banned_s: Option<i64>,
    pub(crate) ban_reason: String,
}

/// What came of spending a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// The key is the node's now.
    Joined(NodeRow),
    /// The node is banned; the token is still there.
    Banned,
    /// It is for another node; still there.
    OtherNode,
    /// It was spent before, by this node.
    Used(String),
    /// Not known, or too old.
    Unknown,
    /// There are as many nodes as there may be; the token is still there.
    Full,
}

/// Who comes with a token.
pub(crate) struct Spend<'a> {
    pub(crate) id: &'a str,
    pub(crate) secret_hash: [u8; 32],
    pub(crate) node: &'a NodeName,
    pub(crate) spki: &'a [u8],
    pub(crate) now_s: i64,
}

impl Store {
    /// Keeps a token; false when there are too many, or it is of a banned node.
    pub(crate) async fn add_token(&self, token: &TokenRow) -> Result<bool, StoreError> {
        let mut tx = writing(&self.pool).await?;
        query("DELETE FROM join_tokens WHERE expires <= ?")
            .bind(token.created_s)
            .execute(&mut *tx)
            .await?;
        let kept = query(
            "INSERT INTO join_tokens (id, secret_hash, node, roles, created, expires)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE (SELECT count(*) FROM join_tokens) < ?7",
        )
        .bind(&token.id)
        .bind(token.secret_hash.as_slice())
        .bind(token.node.as_str())
        .bind(json(&token.roles)?)
        .bind(token.created_s)
        .bind(token.expires_s)
        .bind(TOKENS_MAX)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        tx.commit().await?;
        Ok(kept == 1)
    }

    /// Tokens that can still be spent, the next to expire first.
    pub(crate) async fn tokens(&self, now_s: i64) -> Result<Vec<TokenRow>, StoreError> {
        query(
            "SELECT id, secret_hash, node, roles, created, expires FROM join_tokens
             WHERE expires > ? ORDER BY expires, id",
        )
        .bind(now_s)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(token)
        .collect()
    }

    /// Forgets a token; false when there is none of that id.
    pub(crate) async fn revoke_token(&self, id: &str) -> Result<bool, StoreError> {
        let gone = query("DELETE FROM join_tokens WHERE id = ?")
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(gone.rows_affected() == 1)
    }

    /// Forgets every token.
    pub(crate) async fn forget_tokens(&self) -> Result<(), StoreError> {
        query("DELETE FROM join_tokens").execute(&self.pool).await?;
        Ok(())
    }

    /// Spends a token and makes the key that of the node, both or neither.
    pub(crate) async fn spend_token(&self, ask: &Spend<'_>) -> Result<Spent, StoreError> {
        let mut tx = writing(&self.pool).await?;
        let spent = query(
            "DELETE FROM join_tokens
             WHERE id = ? AND secret_hash = ? AND node = ? AND expires > ? RETURNING roles",
        )
        .bind(ask.id)
        .bind(ask.secret_hash.as_slice())
        .bind(ask.node.as_str())
        .bind(ask.now_s)
        .fetch_all(&mut *tx)
        .await?;
        let [row] = spent.as_slice() else {
            drop(tx);
            return self.why_not(ask).await;
        };
        let roles: String = row.try_get("roles")?;
        // A token made for a name that is taken gives the name a new key, unless the
        // node is banned: then neither statement counts.
        let joined = query(
            "INSERT INTO nodes (name, spki, roles, joined, token_id, token_hash)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6
             WHERE (SELECT count(*) FROM nodes WHERE name <> ?1) < ?7
             ON CONFLICT (name) DO UPDATE SET spki = excluded.spki, roles = excluded.roles,
               joined = excluded.joined, token_id = excluded.token_id,
               token_hash = excluded.token_hash
             WHERE nodes.banned IS NULL",
        )
        .bind(ask.node.as_str())
        .bind(ask.spki)
        .bind(&roles)
        .bind(ask.now_s)
        .bind(ask.id)
        .bind(ask.secret_hash.as_slice())
        .bind(NODES_MAX)
        .execute(&mut *tx)
        .await?;
        if joined.rows_affected() != 1 {
            let banned = query("SELECT 1 FROM nodes WHERE name = ? AND banned IS NOT NULL")
                .bind(ask.node.as_str())
                .fetch_optional(&mut *tx)
                .await?;
            tx.rollback().await?;
            return Ok(banned.map_or(Spent::Full, |_| Spent::Banned));
        }
        tx.commit().await?;
        Ok(Spent::Joined(NodeRow {
            name: ask.node.clone(),
            spki: ask.spki.to_vec(),
            roles: from_json(&roles)?,
            joined_s: ask.now_s,
            banned_s: None,
            ban_reason: String::new(),
        }))
    }

    /// Whoever knows the secret is told what became of the token; a guess is not.
    async fn why_not(&self, ask: &Spend<'_>) -> Result<Spent, StoreError> {
        let used = query("SELECT name FROM nodes WHERE token_id = ? AND token_hash = ?")
            .bind(ask.id)
            .bind(ask.secret_hash.as_slice())
            .fetch_optional(&self.pool)
            .await?;
        if let Some(row) = used {
            return Ok(Spent::Used(row.try_get("name")?));
        }
        let waiting = query(
            "SELECT 1 FROM join_tokens
             WHERE id = ? AND secret_hash = ? AND node <> ? AND expires > ?",
        )
        .bind(ask.id)
        .bind(ask.secret_hash.as_slice())
        .bind(ask.node.as_str())
        .bind(ask.now_s)
        .fetch_optional(&self.pool)
        .await?;
        Ok(waiting.map_or(Spent::Unknown, |_| Spent::OtherNode))
    }

    /// Every node, by name.
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        query("SELECT name, spki, roles, joined, banned, ban_reason FROM nodes ORDER BY name")
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(node)
            .collect()
    }

    /// Bans a node for good; false when there is none of that name.
    pub(crate) async fn ban_node(
        &self,
        name: &NodeName,
        now_s: i64,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = writing(&self.pool).await?;
        let banned = query(
            "UPDATE nodes SET banned = coalesce(banned, ?2), ban_reason = ?3 WHERE name = ?1",
        )
        .bind(name.as_str())
        .bind(now_s)
        .bind(reason)
        .execute(&mut *tx)
        .await?;
        for forget in [
            "DELETE FROM join_tokens WHERE node = ?",
            "DELETE FROM directory WHERE node = ?",
        ] {
            query(forget).bind(name.as_str()).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(banned.rows_affected() == 1)
    }

    /// Where the parts were last heard of.
    pub(crate) async fn directory(&self) -> Result<Vec<DirectoryEntry>, StoreError> {
        query("SELECT role, node, address FROM directory ORDER BY role, node")
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(entry)
            .collect()
    }

    /// Keeps where a part is; each node has one of each.
    pub(crate) async fn put_directory(&self, entry: &DirectoryEntry) -> Result<(), StoreError> {
        query(
            "INSERT INTO directory (role, node, address) VALUES (?, ?, ?)
             ON CONFLICT (role, node) DO UPDATE SET address = excluded.address",
        )
        .bind(entry.role.as_str())
        .bind(&entry.node)
        .bind(entry.address.to_string())
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

fn token(row: &SqliteRow) -> Result<TokenRow, StoreError> {
    let bad = || StoreError::Row("join_tokens");
    let node: String = row.try_get("node")?;
    let roles: String = row.try_get("roles")?;
    let hash: Vec<u8> = row.try_get("secret_hash")?;
    Ok(TokenRow {
        id: row.try_get("id")?,
        secret_hash: hash.try_into().map_err(|_| bad())?,
        node: NodeName::parse(&node).map_err(|_| bad())?,
        roles: from_json(&roles)?,
        created_s: row.try_get("created")?,
        expires_s: row.try_get("expires")?,
    })
}

fn node(row: &SqliteRow) -> Result<NodeRow, StoreError> {
    let name: String = row.try_get("name")?;
    let roles: String = row.try_get("roles")?;
    Ok(NodeRow {
        name: NodeName::parse(&name).map_err(|_| StoreError::Row("nodes.name"))?,
        spki: row.try_get("spki")?,
        roles: from_json(&roles)?,
        joined_s: row.try_get("joined")?,
        banned_s: row.try_get("banned")?,
        ban_reason: row.try_get("ban_reason")?,
    })
}

fn entry(row: &SqliteRow) -> Result<DirectoryEntry, StoreError> {
    let bad = || StoreError::Row("directory");
    let role: String = row.try_get("role")?;
    let address: String = row.try_get("address")?;
    Ok(DirectoryEntry {
        role: role.parse().map_err(|()| bad())?,
        address: address.parse().map_err(|_| bad())?,
        node: row.try_get("node")?,
    })
}

fn json(roles: &[NodeRole]) -> Result<String, StoreError> {
    serde_json::to_string(roles).map_err(|_| StoreError::Row("roles"))
}

fn from_json(text: &str) -> Result<Vec<NodeRole>, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Row("roles"))
}
