//! A member that mls-rs plays, with RustCrypto.

use crate::peer::*;
use mls_rs::client_builder::{MlsConfig, PaddingMode};
use mls_rs::extension::built_in::RequiredCapabilitiesExt;
use mls_rs::group::{CommitEffect, ReceivedMessage};
use mls_rs::identity::basic::BasicCredential;
use mls_rs::identity::{CredentialType, SigningIdentity};
use mls_rs::mls_rules::{CommitOptions, DefaultMlsRules, EncryptionOptions};
use mls_rs::psk::{ExternalPskId, PreSharedKey};
use mls_rs::storage_provider::in_memory::InMemoryPreSharedKeyStorage;
use mls_rs::time::MlsTime;
use mls_rs::{
    CipherSuite, CipherSuiteProvider, Client, CryptoProvider, Extension, ExtensionList, Group, IdentityProvider,
    MlsMessage,
};
use mls_rs_core::identity::MemberValidationContext;
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use std::convert::Infallible;

pub fn new(name: &str, suite: u16, private: bool) -> Fallible<Box<dyn Peer>> {
    let suite = CipherSuite::new(suite);
    let crypto = RustCryptoProvider::default();
    let provider = crypto.cipher_suite_provider(suite).ok_or("no such suite")?;
    let (secret, public) = provider.signature_key_generate().map_err(said)?;
    let identity = SigningIdentity::new(BasicCredential::new(name.as_bytes().to_vec()).into_credential(), public);
    let psks = InMemoryPreSharedKeyStorage::default();
    let client = Client::builder()
        .identity_provider(KeysAreIdentities)
        .crypto_provider(crypto)
        .psk_store(psks.clone())
        .extension_type(CONTEXT_EXTENSION.into())
        .mls_rules(rules(private))
        .signing_identity(identity.clone(), secret, suite)
        .build();
    Ok(Box::new(MlsRs { client, identity, psks, private, group: None }))
}

fn rules(private: bool) -> DefaultMlsRules {
    DefaultMlsRules::new()
        .with_commit_options(CommitOptions::new().with_ratchet_tree_extension(true))
        .with_encryption_options(EncryptionOptions::new(private, PaddingMode::None))
}

/// Who somebody is, its signature key says: in XMTP's groups, too, several members
/// have one credential.
#[derive(Clone)]
struct KeysAreIdentities;

impl IdentityProvider for KeysAreIdentities {
    type Error = Infallible;

    fn validate_member(
        &self,
        _: &SigningIdentity,
        _: Option<MlsTime>,
        _: MemberValidationContext<'_>,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    fn validate_external_sender(
        &self,
        _: &SigningIdentity,
        _: Option<MlsTime>,
        _: Option<&ExtensionList>,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    fn identity(&self, identity: &SigningIdentity, _: &ExtensionList) -> Result<Vec<u8>, Infallible> {
        Ok(identity.signature_key.to_vec())
    }

    fn valid_successor(
        &self,
        predecessor: &SigningIdentity,
        successor: &SigningIdentity,
        _: &ExtensionList,
    ) -> Result<bool, Infallible> {
        Ok(predecessor.credential == successor.credential)
    }

    fn supported_types(&self) -> Vec<CredentialType> {
        vec![CredentialType::BASIC]
    }
}

struct MlsRs<C: MlsConfig> {
    client: Client<C>,
    identity: SigningIdentity,
    psks: InMemoryPreSharedKeyStorage,
    private: bool,
    group: Option<Group<C>>,
}

impl<C: MlsConfig + 'static> MlsRs<C> {
    fn member(&mut self) -> Fallible<&mut Group<C>> {
        self.group.as_mut().ok_or("in no group".into())
    }
}

fn decode(message: &[u8]) -> Fallible<MlsMessage> {
    MlsMessage::from_bytes(message).map_err(said)
}

fn encode(message: MlsMessage) -> Fallible<Vec<u8>> {
    message.to_bytes().map_err(said)
}

fn context(data: Vec<u8>) -> Fallible<ExtensionList> {
    let required =
        RequiredCapabilitiesExt { extensions: vec![CONTEXT_EXTENSION.into()], ..RequiredCapabilitiesExt::default() };
    let mut list = ExtensionList::new();
    list.set_from(required).map_err(said)?;
    list.set(Extension::new(CONTEXT_EXTENSION.into(), data));
    Ok(list)
}

impl<C: MlsConfig + 'static> Peer for MlsRs<C> {
    fn key_package(&mut self) -> Fallible<Vec<u8>> {
        let none = ExtensionList::new;
        encode(self.client.generate_key_package_message(none(), none(), None).map_err(said)?)
    }

    fn create(&mut self, group_id: &[u8]) -> Fallible<()> {
        let builder = self.client.group_builder().map_err(said)?;
        self.group = Some(builder.with_group_id(group_id.to_vec()).build().map_err(said)?);
        Ok(())
    }

    fn psk(&mut self, id: &[u8], key: &[u8]) -> Fallible<()> {
        self.psks.insert(ExternalPskId::new(id.to_vec()), PreSharedKey::new(key.to_vec()));
        Ok(())
    }

    fn propose(&mut self, change: Change) -> Fallible<Vec<u8>> {
        let group = self.member()?;
        let message = match change {
            Change::Add(message) => group.propose_add(decode(&message)?, vec![]),
            Change::Remove(leaf) => group.propose_remove(leaf, vec![]),
            Change::Update => group.propose_update(vec![]),
            Change::Psk(id) => group.propose_external_psk(ExternalPskId::new(id), vec![]),
            Change::Context(data) => group.propose_group_context_extensions(context(data)?, vec![]),
            Change::Path => return Err("a path is not proposed".into()),
        };
        encode(message.map_err(said)?)
    }

    fn commit(&mut self, changes: Vec<Change>) -> Fallible<(Vec<u8>, Option<Vec<u8>>)> {
        let mut builder = self.member()?.commit_builder();
        for change in changes {
            builder = match change {
                Change::Add(message) => builder.add_member(decode(&message)?).map_err(said)?,
                Change::Remove(leaf) => builder.remove_member(leaf).map_err(said)?,
                Change::Psk(id) => builder.add_external_psk(ExternalPskId::new(id)).map_err(said)?,
                Change::Context(data) => builder.set_group_context_ext(context(data)?).map_err(said)?,
                // The rules decide, and leave a path away where it is not needed.
                Change::Path => builder,
                Change::Update => return Err("a commit's path is its update".into()),
            };
        }
        let output = builder.build().map_err(said)?;
        let welcome = output.welcome_messages.into_iter().next().map(encode).transpose()?;
        Ok((encode(output.commit_message)?, welcome))
    }

    fn merge(&mut self) -> Fallible<()> {
        self.member()?.apply_pending_commit().map(|_| ()).map_err(said)
    }

    fn discard(&mut self) -> Fallible<()> {
        let group = self.member()?;
        group.clear_pending_commit();
        group.clear_proposal_cache();
        Ok(())
    }

    fn seal(&mut self, data: &[u8]) -> Fallible<Vec<u8>> {
        encode(self.member()?.encrypt_application_message(data, vec![]).map_err(said)?)
    }

    fn open(&mut self, message: &[u8]) -> Fallible<Opened> {
        let group = self.member()?;
        match group.process_incoming_message(decode(message)?).map_err(said)? {
            ReceivedMessage::ApplicationMessage(m) => Ok(Opened::Application(m.sender_index, m.data().to_vec())),
            ReceivedMessage::Proposal(_) => Ok(Opened::Proposal),
            ReceivedMessage::Commit(c) => Ok(match c.effect {
                CommitEffect::Removed { .. } => Opened::Removed,
                _ => Opened::Commit,
            }),
            _ => Err("not a message of a group".into()),
        }
    }

    fn join(&mut self, welcome: &[u8]) -> Fallible<()> {
        let (group, _) = self.client.join_group(None, &decode(welcome)?, None).map_err(said)?;
        self.group = Some(group);
        Ok(())
    }

    fn info(&self) -> Fallible<Vec<u8>> {
        let group = self.group.as_ref().ok_or("in no group")?;
        encode(group.group_info_message_allowing_ext_commit(true).map_err(said)?)
    }

    fn external(&mut self, info: &[u8]) -> Fallible<Vec<u8>> {
        let mut builder = self.client.external_commit_builder().map_err(said)?;
        if let Some(old) = self.group.as_ref().and_then(|g| own_leaf(g, &self.identity)) {
            builder = builder.with_removal(old);
        }
        let (group, commit) = builder.build(decode(info)?).map_err(said)?;
        self.group = Some(group);
        encode(commit)
    }

    fn state(&self) -> Fallible<String> {
        let group = self.group.as_ref().ok_or("in no group")?;
        Ok(State {
            epoch: group.current_epoch(),
            authenticator: group.epoch_authenticator().map_err(said)?.as_bytes().to_vec(),
            tree_hash: group.context().tree_hash.clone(),
            exported: group
                .export_secret(EXPORT_LABEL.as_bytes(), EXPORT_CONTEXT, EXPORT_LENGTH)
                .map_err(said)?
                .as_bytes()
                .to_vec(),
            members: group
                .roster()
                .members_iter()
                .map(|m| {
                    let who = m.signing_identity;
                    let name = who.credential.as_basic().map_or(vec![], |b| b.identifier.clone());
                    (m.index, name, who.signature_key.to_vec())
                })
                .collect(),
        }
        .line())
    }

    fn copy(&self) -> Fallible<Box<dyn Peer>> {
        Ok(Box::new(MlsRs {
            client: self.client.clone(),
            identity: self.identity.clone(),
            psks: self.psks.clone(),
            private: self.private,
            group: self.group.clone(),
        }))
    }
}

/// The leaf that has the member's signature key, as the member last saw the group.
fn own_leaf<C: MlsConfig>(group: &Group<C>, own: &SigningIdentity) -> Option<u32> {
    let mut members = group.roster().members_iter();
    members.find(|m| m.signing_identity.signature_key == own.signature_key).map(|m| m.index)
}
