//! The trait, each method timed and counted under its name.

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Backend, agent_batches, agents, audit, commands, components, contents, counters, fleet, news, observed,
    package_files, policies, schema, tokens,
};
use crate::{
    model::{
        AgentRecord, ContentHash, InstanceUid, UnixMs,
        command::{Command, CommandId, Target, TargetState},
        desired::{DesiredOffer, PolicySet},
        health::Transition,
        policy::{Policy, Revision},
        uid::Shard,
    },
    store::{
        Actor, AgentFilter, Announced, Applied, AppliedSet, ApplyPolicy, ApplySet, AuditEntry, Claim, CommandProgress,
        ConfigFiles, DesiredWrite, FleetSummary, LabelChanges, NewCommand, NewPackageFile, NewToken, News, PackageFile,
        Result, Store, Token, TokenDigest, TokenKind, UnknownComponents,
    },
};

#[async_trait]
impl Store for Backend {
    async fn migrate(&self) -> Result<()> {
        observed("migrate", Self::MAINTENANCE_LIMIT, self.run_migrations()).await
    }

    async fn check(&self) -> Result<()> {
        observed("check", self.limit(), schema::check(self)).await
    }

    async fn read_agents(&self, uids: &[InstanceUid]) -> Result<Vec<AgentRecord>> {
        observed("read_agents", self.limit(), agent_batches::read(self, uids)).await
    }

    async fn write_reports(
        &self,
        agents: &[AgentRecord],
        contents: &[(ContentHash, Bytes)],
        news: &[News],
    ) -> Result<Vec<InstanceUid>> {
        observed("write_agents", self.limit(), agent_batches::write(self, agents, contents, news)).await
    }

    async fn write_desired(&self, agents: &[DesiredWrite]) -> Result<Vec<InstanceUid>> {
        observed("write_desired", self.limit(), agent_batches::write_desired(self, agents)).await
    }

    async fn page_agents(
        &self,
        filter: AgentFilter,
        after: Option<InstanceUid>,
        limit: u32,
    ) -> Result<Vec<AgentRecord>> {
        observed("page_agents", self.limit(), agents::page(self, filter, after, limit)).await
    }

    async fn set_labels(
        &self,
        uid: InstanceUid,
        changes: &LabelChanges,
        etag: Option<&str>,
        actor: &Actor,
    ) -> Result<AgentRecord> {
        Box::pin(observed("set_labels", self.limit(), agents::set_labels(self, uid, changes, etag, actor))).await
    }

    async fn lift_quarantine(&self, uid: InstanceUid, actor: &Actor) -> Result<AgentRecord> {
        Box::pin(observed("lift_quarantine", self.limit(), agents::lift_quarantine(self, uid, actor))).await
    }

    async fn forget_agent(&self, uid: InstanceUid, etag: Option<&str>, actor: &Actor) -> Result<()> {
        Box::pin(observed("forget_agent", self.limit(), agents::forget(self, uid, etag, actor))).await
    }

    async fn disconnect_gateway(&self, gateway: &str) -> Result<u64> {
        observed("disconnect_gateway", self.limit(), agents::disconnect_gateway(self, gateway)).await
    }

    async fn gateways_in_use(&self) -> Result<Vec<(String, u64)>> {
        observed("gateways_in_use", self.limit(), fleet::gateways_in_use(self)).await
    }

    async fn fleet_summary(&self) -> Result<FleetSummary> {
        observed("fleet_summary", self.limit(), fleet::summary(self)).await
    }

    async fn read_announced(&self, uids: &[InstanceUid]) -> Result<Vec<(InstanceUid, Announced)>> {
        observed("read_announced", self.limit(), news::read_announced(self, uids)).await
    }

    async fn health_history(
        &self,
        uid: InstanceUid,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<(i64, Transition)>> {
        observed("health_history", self.limit(), news::health_history(self, uid, before, limit)).await
    }

    async fn forget_health(&self, before: UnixMs) -> Result<u64> {
        observed("forget_health", Self::MAINTENANCE_LIMIT, news::forget_health(self, before)).await
    }

    async fn note_components(&self, said: &[(Bytes, Vec<InstanceUid>)], now: UnixMs) -> Result<Vec<Bytes>> {
        observed("note_components", self.limit(), components::note(self, said, now)).await
    }

    async fn put_components(&self, told: &[(Bytes, Bytes)], now: UnixMs) -> Result<()> {
        observed("put_components", self.limit(), components::put(self, told, now)).await
    }

    async fn get_components(&self, hash: &[u8]) -> Result<Option<Bytes>> {
        observed("get_components", self.limit(), components::get(self, hash)).await
    }

    async fn unknown_components(&self, limit: u32) -> Result<Vec<UnknownComponents>> {
        observed("unknown_components", self.limit(), components::unknown(self, limit)).await
    }

    async fn ask_components(&self, hash: &[u8], asked: u16, now: UnixMs) -> Result<bool> {
        observed("ask_components", self.limit(), components::ask(self, hash, asked, now)).await
    }

    async fn forget_components(&self, used_before: UnixMs, unanswered_before: UnixMs) -> Result<u64> {
        let forget = components::forget(self, used_before, unanswered_before);
        observed("forget_components", Self::MAINTENANCE_LIMIT, forget).await
    }

    async fn create_command(&self, command: &NewCommand, actor: &Actor) -> Result<bool> {
        observed("create_command", self.limit(), commands::create(self, command, actor)).await
    }

    async fn get_command(&self, id: CommandId) -> Result<CommandProgress> {
        observed("get_command", self.limit(), commands::get(self, id)).await
    }

    async fn command_targets(
        &self,
        id: CommandId,
        states: &[TargetState],
        after: Option<InstanceUid>,
        limit: u32,
    ) -> Result<Vec<Target>> {
        observed("command_targets", self.limit(), commands::targets(self, id, states, after, limit)).await
    }

    async fn open_commands(&self) -> Result<Vec<Command>> {
        observed("open_commands", self.limit(), commands::open(self)).await
    }

    async fn waiting_targets(&self, id: CommandId, shards: u64, limit: u32) -> Result<Vec<InstanceUid>> {
        observed("waiting_targets", self.limit(), commands::waiting(self, id, shards, limit)).await
    }

    async fn claim_targets(&self, id: CommandId, claims: &[Claim], now: UnixMs) -> Result<Vec<InstanceUid>> {
        observed("claim_targets", self.limit(), commands::claim(self, id, claims, now)).await
    }

    async fn targets_under_way(&self, shards: u64, limit: u32) -> Result<Vec<Target>> {
        observed("targets_under_way", self.limit(), commands::under_way(self, shards, limit)).await
    }

    async fn settle_targets(&self, settled: &[(CommandId, InstanceUid, TargetState)], now: UnixMs) -> Result<()> {
        observed("settle_targets", self.limit(), commands::settle(self, settled, now)).await
    }

    async fn finish_commands(&self, now: UnixMs) -> Result<u64> {
        observed("finish_commands", self.limit(), commands::finish(self, now)).await
    }

    async fn forget_commands(&self, before: UnixMs) -> Result<u64> {
        observed("forget_commands", Self::MAINTENANCE_LIMIT, commands::forget(self, before)).await
    }

    async fn put_contents(&self, bodies: &[(ContentHash, Bytes)]) -> Result<()> {
        observed("put_contents", self.limit(), contents::put_all(self, bodies)).await
    }

    async fn get_contents(&self, hashes: &[ContentHash]) -> Result<Vec<(ContentHash, Bytes)>> {
        observed("get_contents", self.limit(), contents::get(self, hashes)).await
    }

    async fn put_configs(&self, configs: &[(ContentHash, ConfigFiles)]) -> Result<()> {
        observed("put_configs", self.limit(), contents::put_all_configs(self, configs)).await
    }

    async fn get_configs(&self, hashes: &[ContentHash]) -> Result<Vec<(ContentHash, ConfigFiles)>> {
        observed("get_configs", self.limit(), contents::get_configs(self, hashes)).await
    }

    async fn put_offer(&self, offer: &DesiredOffer) -> Result<()> {
        observed("put_offer", self.limit(), contents::put_offer(self, offer)).await
    }

    async fn get_offer(&self, hash: ContentHash) -> Result<Option<DesiredOffer>> {
        observed("get_offer", self.limit(), contents::get_offer(self, hash)).await
    }

    async fn collect_garbage(&self, before: UnixMs) -> Result<u64> {
        observed("collect_garbage", Self::MAINTENANCE_LIMIT, contents::collect_garbage(self, before)).await
    }

    async fn apply_policy(&self, apply: ApplyPolicy, actor: &Actor) -> Result<Applied> {
        observed("apply_policy", self.limit(), policies::apply(self, apply, actor)).await
    }

    async fn apply_policies(&self, set: ApplySet, actor: &Actor) -> Result<AppliedSet> {
        observed("apply_policies", self.limit(), policies::apply_set(self, set, actor)).await
    }

    async fn delete_policy(&self, name: &str, etag: Option<&str>, actor: &Actor) -> Result<()> {
        observed("delete_policy", self.limit(), policies::delete(self, name, etag, actor)).await
    }

    async fn get_policy(&self, name: &str) -> Result<Policy> {
        observed("get_policy", self.limit(), policies::get(self, name)).await
    }

    async fn list_policies(&self, after: Option<&str>, limit: u32) -> Result<Vec<Policy>> {
        observed("list_policies", self.limit(), policies::list(self, after, limit)).await
    }

    async fn list_revisions(&self, name: &str, before: Option<u64>, limit: u32) -> Result<Vec<Revision>> {
        observed("list_revisions", self.limit(), policies::revisions(self, name, before, limit)).await
    }

    async fn policy_set(&self) -> Result<PolicySet> {
        observed("policy_set", self.limit(), policies::set(self)).await
    }

    async fn policy_epoch(&self) -> Result<u64> {
        observed("policy_epoch", self.limit(), policies::epoch(self)).await
    }

    async fn shard_progress(&self) -> Result<Vec<(Shard, u64)>> {
        observed("shard_progress", self.limit(), counters::shard_progress(self)).await
    }

    async fn set_shard_progress(&self, shard: Shard, epoch: u64) -> Result<()> {
        observed("set_shard_progress", self.limit(), counters::set_shard_progress(self, shard, epoch)).await
    }

    async fn create_token(&self, token: &NewToken, actor: &Actor) -> Result<Token> {
        observed("create_token", self.limit(), tokens::create(self, token, actor)).await
    }

    async fn list_tokens(&self) -> Result<Vec<Token>> {
        observed("list_tokens", self.limit(), tokens::list(self)).await
    }

    async fn revoke_token(&self, id_or_name: &str, now: UnixMs, actor: &Actor) -> Result<Token> {
        observed("revoke_token", self.limit(), tokens::revoke(self, id_or_name, now, actor)).await
    }

    async fn find_token(&self, kind: TokenKind, sha256: &[u8; 32], now: UnixMs) -> Result<Option<Token>> {
        observed("find_token", self.limit(), tokens::find(self, kind, sha256, now)).await
    }

    async fn agent_tokens(&self, now: UnixMs) -> Result<(u64, Vec<TokenDigest>)> {
        observed("agent_tokens", self.limit(), tokens::agent_tokens(self, now)).await
    }

    async fn put_package_file(&self, file: &NewPackageFile, actor: &Actor) -> Result<PackageFile> {
        observed("put_package_file", self.limit(), package_files::put(self, file, actor)).await
    }

    async fn get_package_file(&self, sha256: ContentHash) -> Result<Option<PackageFile>> {
        observed("get_package_file", self.limit(), package_files::get(self, sha256)).await
    }

    async fn list_package_files(&self, after: Option<ContentHash>, limit: u32) -> Result<Vec<PackageFile>> {
        observed("list_package_files", self.limit(), package_files::list(self, after, limit)).await
    }

    async fn begin_delete_package_file(&self, sha256: ContentHash, actor: &Actor) -> Result<PackageFile> {
        observed("begin_delete_package_file", self.limit(), package_files::begin_delete(self, sha256, actor)).await
    }

    async fn end_delete_package_file(&self, sha256: ContentHash) -> Result<()> {
        observed("end_delete_package_file", self.limit(), package_files::end_delete(self, sha256)).await
    }

    async fn package_key(&self) -> Result<[u8; 32]> {
        observed("package_key", self.limit(), package_files::key(self)).await
    }

    async fn list_audit(&self, before: Option<i64>, limit: u32) -> Result<Vec<AuditEntry>> {
        observed("list_audit", self.limit(), audit::list(self, before, limit)).await
    }
}
