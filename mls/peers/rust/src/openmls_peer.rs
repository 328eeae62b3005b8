//! A member that OpenMLS plays: with libcrux, as libxmtp does, in the suites that
//! libcrux has, else with RustCrypto.

use crate::peer::*;
use openmls::prelude::tls_codec::{Deserialize, Serialize};
use openmls::prelude::*;
use openmls::schedule::psk::{ExternalPsk, PreSharedKeyId, Psk};
use openmls_basic_credential::SignatureKeyPair;
use openmls_libcrux_crypto::CryptoProvider as Libcrux;
use openmls_memory_storage::MemoryStorage;
use openmls_rust_crypto::RustCrypto;
use std::rc::Rc;
use std::sync::RwLock;

pub fn new(name: &str, suite: u16, private: bool) -> Fallible<Box<dyn Peer>> {
    let suite = Ciphersuite::try_from(suite).map_err(said)?;
    let libcrux = Libcrux::new().map_err(said)?;
    if libcrux.supported_ciphersuites().contains(&suite) {
        return OpenMls::start(name, suite, private, libcrux);
    }
    OpenMls::start(name, suite, private, RustCrypto::default())
}

struct Provider<C> {
    crypto: Rc<C>,
    storage: MemoryStorage,
}

impl<C: OpenMlsCrypto + OpenMlsRand> OpenMlsProvider for Provider<C> {
    type CryptoProvider = C;
    type RandProvider = C;
    type StorageProvider = MemoryStorage;

    fn storage(&self) -> &MemoryStorage {
        &self.storage
    }
    fn crypto(&self) -> &C {
        &self.crypto
    }
    fn rand(&self) -> &C {
        &self.crypto
    }
}

struct OpenMls<C> {
    provider: Provider<C>,
    suite: Ciphersuite,
    private: bool,
    signer: Rc<SignatureKeyPair>,
    credential: CredentialWithKey,
    group: Option<MlsGroup>,
}

impl<C: OpenMlsCrypto + OpenMlsRand + 'static> OpenMls<C> {
    fn start(name: &str, suite: Ciphersuite, private: bool, crypto: C) -> Fallible<Box<dyn Peer>> {
        let signer = SignatureKeyPair::new(suite.signature_algorithm()).map_err(said)?;
        let credential = CredentialWithKey {
            credential: BasicCredential::new(name.as_bytes().to_vec()).into(),
            signature_key: signer.public().into(),
        };
        Ok(Box::new(OpenMls {
            provider: Provider { crypto: Rc::new(crypto), storage: MemoryStorage::default() },
            suite,
            private,
            signer: Rc::new(signer),
            credential,
            group: None,
        }))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            None,
            Some(&[self.suite]),
            Some(&[ExtensionType::Unknown(CONTEXT_EXTENSION)]),
            None,
            Some(&[CredentialType::Basic]),
        )
    }

    fn join_config(&self) -> MlsGroupJoinConfig {
        MlsGroupJoinConfig::builder()
            .wire_format_policy(self.policy())
            .use_ratchet_tree_extension(true)
            .max_past_epochs(3)
            .build()
    }

    fn policy(&self) -> WireFormatPolicy {
        match self.private {
            true => MIXED_CIPHERTEXT_WIRE_FORMAT_POLICY,
            false => MIXED_PLAINTEXT_WIRE_FORMAT_POLICY,
        }
    }

    fn key_package_in(&self, message: &[u8]) -> Fallible<KeyPackage> {
        let MlsMessageBodyIn::KeyPackage(package) = decode(message)?.extract() else {
            return Err("not a key package".into());
        };
        package.validate(self.provider.crypto(), ProtocolVersion::Mls10).map_err(said)
    }

    fn psk_id(&self, id: Vec<u8>) -> Fallible<PreSharedKeyId> {
        PreSharedKeyId::new(self.suite, self.provider.rand(), Psk::External(ExternalPsk::new(id))).map_err(said)
    }
}

/// The group and what it works with: split, as both are borrowed at once.
macro_rules! member {
    ($peer:expr) => {
        ($peer.group.as_mut().ok_or("in no group")?, &$peer.provider, &*$peer.signer)
    };
}

fn decode(message: &[u8]) -> Fallible<MlsMessageIn> {
    MlsMessageIn::tls_deserialize_exact(message).map_err(said)
}

fn encode(message: MlsMessageOut) -> Fallible<Vec<u8>> {
    message.tls_serialize_detached().map_err(said)
}

fn context(data: Vec<u8>) -> Fallible<Extensions<GroupContext>> {
    let required = RequiredCapabilitiesExtension::new(&[ExtensionType::Unknown(CONTEXT_EXTENSION)], &[], &[]);
    Extensions::from_vec(vec![
        Extension::RequiredCapabilities(required),
        Extension::Unknown(CONTEXT_EXTENSION, UnknownExtension(data)),
    ])
    .map_err(said)
}

impl<C: OpenMlsCrypto + OpenMlsRand + 'static> Peer for OpenMls<C> {
    fn key_package(&mut self) -> Fallible<Vec<u8>> {
        let bundle = KeyPackage::builder()
            .leaf_node_capabilities(self.capabilities())
            .build(self.suite, &self.provider, &*self.signer, self.credential.clone())
            .map_err(said)?;
        encode(bundle.key_package().clone().into())
    }

    fn create(&mut self, group_id: &[u8]) -> Fallible<()> {
        let group = MlsGroup::builder()
            .with_group_id(GroupId::from_slice(group_id))
            .ciphersuite(self.suite)
            .with_capabilities(self.capabilities())
            .with_wire_format_policy(self.policy())
            .use_ratchet_tree_extension(true)
            .max_past_epochs(3)
            .build(&self.provider, &*self.signer, self.credential.clone())
            .map_err(said)?;
        self.group = Some(group);
        Ok(())
    }

    fn psk(&mut self, id: &[u8], key: &[u8]) -> Fallible<()> {
        self.psk_id(id.to_vec())?.store(&self.provider, key).map_err(said)
    }

    fn propose(&mut self, change: Change) -> Fallible<Vec<u8>> {
        let (package, psk) = match &change {
            Change::Add(message) => (Some(self.key_package_in(message)?), None),
            Change::Psk(id) => (None, Some(self.psk_id(id.clone())?)),
            _ => (None, None),
        };
        let (group, provider, signer) = member!(self);
        let (message, _) = match change {
            Change::Add(_) => {
                group.propose_add_member(provider, signer, &package.unwrap()).map_err(said)?
            }
            Change::Remove(leaf) => {
                group.propose_remove_member(provider, signer, LeafNodeIndex::new(leaf)).map_err(said)?
            }
            Change::Update => {
                group.propose_self_update(provider, signer, LeafNodeParameters::default()).map_err(said)?
            }
            Change::Psk(_) => group.propose_pre_shared_key(provider, signer, psk.unwrap()).map_err(said)?,
            Change::Context(data) => {
                group.propose_group_context_extensions(provider, context(data)?, signer).map_err(said)?
            }
            Change::Path => return Err("a path is not proposed".into()),
        };
        encode(message)
    }

    fn commit(&mut self, changes: Vec<Change>) -> Fallible<(Vec<u8>, Option<Vec<u8>>)> {
        let (mut adds, mut removals, mut psks) = (Vec::new(), Vec::new(), Vec::new());
        let (mut extensions, mut path) = (None, false);
        for change in changes {
            match change {
                Change::Add(message) => adds.push(self.key_package_in(&message)?),
                Change::Remove(leaf) => removals.push(LeafNodeIndex::new(leaf)),
                Change::Psk(id) => {
                    psks.push(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(self.psk_id(id)?))))
                }
                Change::Context(data) => extensions = Some(context(data)?),
                Change::Path => path = true,
                Change::Update => return Err("a commit's path is its update".into()),
            }
        }
        let (group, provider, signer) = member!(self);
        let mut builder = group
            .commit_builder()
            .force_self_update(path)
            .propose_adds(adds)
            .propose_removals(removals)
            .add_proposals(psks);
        if let Some(extensions) = extensions {
            builder = builder.propose_group_context_extensions(extensions).map_err(said)?;
        }
        let bundle = builder
            .load_psks(provider.storage())
            .map_err(said)?
            .build(provider.rand(), provider.crypto(), signer, |_| true)
            .map_err(said)?
            .stage_commit(provider)
            .map_err(said)?;
        let welcome = bundle.to_welcome_msg().map(encode).transpose()?;
        Ok((encode(bundle.into_commit())?, welcome))
    }

    fn merge(&mut self) -> Fallible<()> {
        let (group, provider, _) = member!(self);
        group.merge_pending_commit(provider).map_err(said)
    }

    fn discard(&mut self) -> Fallible<()> {
        let (group, provider, _) = member!(self);
        group.clear_pending_commit(provider.storage()).map_err(said)?;
        group.clear_pending_proposals(provider.storage()).map_err(said)
    }

    fn seal(&mut self, data: &[u8]) -> Fallible<Vec<u8>> {
        let (group, provider, signer) = member!(self);
        encode(group.create_message(provider, signer, data).map_err(said)?)
    }

    fn open(&mut self, message: &[u8]) -> Fallible<Opened> {
        let (group, provider, _) = member!(self);
        let message = decode(message)?.try_into_protocol_message().map_err(said)?;
        let processed = group.process_message(provider, message).map_err(said)?;
        let sender = match processed.sender() {
            Sender::Member(leaf) => leaf.u32(),
            _ => u32::MAX,
        };
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(message) => {
                Ok(Opened::Application(sender, message.into_bytes()))
            }
            ProcessedMessageContent::ProposalMessage(proposal)
            | ProcessedMessageContent::ExternalJoinProposalMessage(proposal) => {
                group.store_pending_proposal(provider.storage(), *proposal).map_err(said)?;
                Ok(Opened::Proposal)
            }
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                let removed = staged.self_removed();
                group.merge_staged_commit(provider, *staged).map_err(said)?;
                Ok(if removed { Opened::Removed } else { Opened::Commit })
            }
            ProcessedMessageContent::OwnPendingCommit => Err("an own commit".into()),
            ProcessedMessageContent::OwnPrivateMessage => Err("an own message".into()),
        }
    }

    fn join(&mut self, welcome: &[u8]) -> Fallible<()> {
        let MlsMessageBodyIn::Welcome(welcome) = decode(welcome)?.extract() else {
            return Err("not a welcome".into());
        };
        let staged = StagedWelcome::build_from_welcome(&self.provider, &self.join_config(), welcome)
            .map_err(said)?
            .replace_old_group()
            .build()
            .map_err(said)?;
        self.group = Some(staged.into_group(&self.provider).map_err(said)?);
        Ok(())
    }

    fn info(&self) -> Fallible<Vec<u8>> {
        let group = self.group.as_ref().ok_or("in no group")?;
        encode(group.export_group_info(self.provider.crypto(), &*self.signer, true).map_err(said)?)
    }

    fn external(&mut self, info: &[u8]) -> Fallible<Vec<u8>> {
        let MlsMessageBodyIn::GroupInfo(info) = decode(info)?.extract() else {
            return Err("not a group info".into());
        };
        let (group, bundle) = MlsGroup::external_commit_builder()
            .with_config(self.join_config())
            .build_group(&self.provider, info, self.credential.clone())
            .map_err(said)?
            .leaf_node_parameters(LeafNodeParameters::builder().with_capabilities(self.capabilities()).build())
            .load_psks(self.provider.storage())
            .map_err(said)?
            .build(self.provider.rand(), self.provider.crypto(), &*self.signer, |_| true)
            .map_err(said)?
            .finalize(&self.provider)
            .map_err(said)?;
        self.group = Some(group);
        encode(bundle.into_commit())
    }

    fn state(&self) -> Fallible<String> {
        let group = self.group.as_ref().ok_or("in no group")?;
        Ok(State {
            epoch: group.epoch().as_u64(),
            authenticator: group.epoch_authenticator().as_slice().to_vec(),
            tree_hash: group.public_group().group_context().tree_hash().to_vec(),
            exported: group
                .export_secret(self.provider.crypto(), EXPORT_LABEL, EXPORT_CONTEXT, EXPORT_LENGTH)
                .map_err(said)?,
            members: group
                .members()
                .map(|m| (m.index.u32(), m.credential.serialized_content().to_vec(), m.signature_key))
                .collect(),
        }
        .line())
    }

    fn copy(&self) -> Fallible<Box<dyn Peer>> {
        let values = self.provider.storage.values.read().map_err(said)?.clone();
        let storage = MemoryStorage { values: RwLock::new(values) };
        let group = match &self.group {
            Some(group) => MlsGroup::load(&storage, group.group_id()).map_err(said)?,
            None => None,
        };
        Ok(Box::new(OpenMls {
            provider: Provider { crypto: self.provider.crypto.clone(), storage },
            suite: self.suite,
            private: self.private,
            signer: self.signer.clone(),
            credential: self.credential.clone(),
            group,
        }))
    }
}
