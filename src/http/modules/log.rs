//! stub
use crate::config::*;
use crate::http::exchange::Exchange;
use crate::http::scope::{Compiler, Scope};
pub const ROWS: &[Row<Scope>] = &[];
#[derive(Default)]
pub struct Raw;
pub struct RawFormat;
#[derive(Default)]
pub struct Formats;
impl Formats {
    pub fn compile(_r: Vec<RawFormat>, _c: &mut Compiler) -> Result<Formats> {
        Ok(Formats)
    }
}
pub struct Conf;
impl Raw {
    pub fn inherit(&mut self, _p: &Raw) {}
    pub fn compile(&self, _c: &mut Compiler) -> Result<Conf> {
        Ok(Conf)
    }
}
pub fn write(_ex: &mut Exchange) {}
