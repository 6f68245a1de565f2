//! stub
use crate::config::*;
use crate::http::exchange::Exchange;
use crate::http::scope::{Compiler, Scope};
pub const ROWS: &[Row<Scope>] = &[];
#[derive(Default)]
pub struct Raw;
pub struct Script;
pub enum Flow {
    Next,
    Relocate,
    Reply(crate::http::respond::Reply),
}
impl Raw {
    pub fn compile(&self, _c: &mut Compiler, _ids: &[u32]) -> Result<Script> {
        Ok(Script)
    }
}
impl Script {
    pub fn run(&self, _ex: &mut Exchange) -> Flow {
        Flow::Next
    }
}
