// Edits that rustc compiled, before and after, in; each is refused in the user's words because memory would have another
// shape, or it is not. Every case is a module of one crate, so that a few runs of rustc make all the objects.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { fuzzDwarf } from '../fuzz/dwarf.js';
import { type Change, namedDefinitions } from '../src/link/diff.ts';
import { goneTypes, type LayoutOptions, layoutRefusal, signatureOf } from '../src/link/layout.ts';
import { readable } from '../src/link/mangle.ts';
import type { ObjectFile } from '../src/model.ts';
import { readArchive } from '../src/object/archive.ts';
import { MalformedError } from '../src/object/bytes.ts';
import { debugInfo } from '../src/object/dwarf.ts';
import { writeElf } from '../src/object/elf.ts';
import { type ElfObject, readElfObject } from '../src/object/elfobject.ts';
import { readObject } from '../src/object/linking.ts';

interface Case {
  readonly name: string;
  readonly before: string;
  readonly after: string;
  /** The reason, `CASE` standing for the module's path; absent when the edit is to work. */
  readonly refused?: string;
}

const REMAINS = 'values of it exist in the running program';
const SUSPENDED = 'what is suspended in it would run on memory of another shape';
const CAPTURED = 'captures other values now; those that exist hold the old ones';

/** A type and a function that uses it. */
const struct = (fields: string, use = ''): string =>
  `pub struct S { ${fields} } pub fn user(s: &S) -> usize { ${use} size_of_val(s) }`;
const boxed = (future: string): string => `pub fn root() -> Pin<Box<dyn Future<Output = u64>>> { Box::pin(${future}) }`;

const cases: readonly Case[] = [
  // ------------------------------------------------------------------------------------------------------- structs
  {
    name: 'field_added',
    before: struct('pub a: u64'),
    after: struct('pub a: u64, pub count: u32'),
    refused: `\`CASE::S\` has a new field \`count: u32\`; ${REMAINS}`,
  },
  {
    name: 'field_removed',
    before: struct('pub a: u64, pub b: u8'),
    after: struct('pub a: u64'),
    refused: `\`CASE::S\` has no field \`b: u8\` now; ${REMAINS}`,
  },
  {
    name: 'field_of_another_type',
    before: struct('pub a: u32'),
    after: struct('pub a: f32'),
    refused: `\`CASE::S\` has the field \`a: f32\`, which was \`u32\`; ${REMAINS}`,
  },
  {
    name: 'tuple_field_of_another_type',
    before: 'pub struct S(pub u8, pub u32); pub fn user(s: S) -> u8 { s.0 }',
    after: 'pub struct S(pub u8, pub i32); pub fn user(s: S) -> u8 { s.0 }',
    refused: `\`CASE::S\` has the field \`1: i32\`, which was \`u32\`; ${REMAINS}`,
  },
  { name: 'field_renamed', before: struct('pub a: u32, pub b: u8'), after: struct('pub first: u32, pub b: u8') },
  {
    name: 'fields_swapped',
    before: struct('pub x: u32, pub y: u32'),
    after: struct('pub y: u32, pub x: u32'),
    refused: `\`CASE::S\` has its field \`y: u32\` at byte 0 now, and had it at 4; ${REMAINS}`,
  },
  {
    name: 'fields_that_rustc_sorts',
    before: struct('pub x: u8, pub y: u32'),
    after: struct('pub y: u32, pub x: u8'),
  },
  {
    name: 'repr_c',
    before: `#[repr(C)] ${struct('pub x: u8, pub y: u32')}`,
    after: `#[repr(C)] ${struct('pub y: u32, pub x: u8')}`,
    refused: `\`CASE::S\` has its field \`y: u32\` at byte 0 now, and had it at 4; ${REMAINS}`,
  },
  {
    name: 'packed',
    before: `#[repr(C)] ${struct('pub x: u32, pub y: u32')}`,
    after: `#[repr(C, packed)] ${struct('pub x: u32, pub y: u32')}`,
    refused: `\`CASE::S\` is aligned to 1 bytes now, and was to 4; ${REMAINS}`,
  },
  {
    name: 'align',
    before: struct('pub x: u32'),
    after: `#[repr(align(16))] ${struct('pub x: u32')}`,
    refused: `\`CASE::S\` takes 16 bytes now, and took 4; ${REMAINS}`,
  },
  {
    name: 'nested_by_value',
    before: `pub struct In { pub a: u8 } pub struct Mid([In; 2]); ${struct('pub m: (u8, Mid), pub z: u64')}`,
    after: `pub struct In { pub a: u16 } pub struct Mid([In; 2]); ${struct('pub m: (u8, Mid), pub z: u64')}`,
    refused: `\`CASE::In\` has the field \`a: u16\`, which was \`u8\`; ${REMAINS}`,
  },
  {
    name: 'array_longer',
    before: struct('pub a: [u8; 4], pub z: u64'),
    after: struct('pub a: [u8; 5], pub z: u64'),
    refused: `\`CASE::S\` has the field \`a: [u8; 5]\`, which was \`[u8; 4]\`; ${REMAINS}`,
  },
  {
    name: 'tuple_longer',
    before: struct('pub t: (u32, u8)'),
    after: struct('pub t: (u32, u8, u8)'),
    refused: `\`CASE::S\` has the field \`t: (u32, u8, u8)\`, which was \`(u32, u8)\`; ${REMAINS}`,
  },
  {
    name: 'behind_a_box',
    before: `pub struct T { pub a: u8 } ${struct('pub t: Box<T>', 's.t.a as usize +')}`,
    after: `pub struct T { pub a: u8, pub b: u64 } ${struct('pub t: Box<T>', 's.t.a as usize +')}`,
    refused: `\`CASE::T\` has a new field \`b: u64\`; ${REMAINS}`,
  },
  {
    name: 'behind_a_reference',
    before: "pub struct T { pub a: u8 } pub struct S<'a> { pub t: &'a T } pub fn user(s: S) -> u8 { s.t.a }",
    after: "pub struct T { pub a: i8 } pub struct S<'a> { pub t: &'a T } pub fn user(s: S) -> i8 { s.t.a }",
    refused: `\`CASE::T\` has the field \`a: i8\`, which was \`u8\`; ${REMAINS}`,
  },
  {
    name: 'in_a_vector',
    before: 'pub struct T { pub a: u8 } pub fn user(v: &Vec<T>) -> usize { v.len() }',
    after: 'pub struct T { pub a: u8, pub b: u8 } pub fn user(v: &Vec<T>) -> usize { v.len() + 1 }',
    refused: `\`CASE::T\` has a new field \`b: u8\`; ${REMAINS}`,
  },
  {
    name: 'generic_instances',
    before: 'pub struct G<T> { pub t: T } pub fn user(a: G<u8>, b: G<u64>) -> u64 { a.t as u64 + b.t }',
    after: 'pub struct G<T> { pub t: T, pub n: u8 } pub fn user(a: G<u8>, b: G<u64>) -> u64 { a.t as u64 + b.t }',
    refused: `\`CASE::G<u8>\` has a new field \`n: u8\`; ${REMAINS}`,
  },
  {
    name: 'generic_parameter_renamed',
    before: 'pub struct G<T> { pub t: T } pub fn user(a: G<u8>) -> u8 { a.t }',
    after: 'pub struct G<Item> { pub t: Item } pub fn user(a: G<u8>) -> u8 { a.t }',
  },
  {
    name: 'another_instance',
    before: 'pub struct G<T> { pub t: T } pub fn user(a: G<u8>) -> u8 { a.t }',
    after: 'pub struct G<T> { pub t: T } pub fn user(a: G<u8>) -> u8 { let g = G { t: 3u64 }; a.t + g.t as u8 }',
  },
  {
    name: 'associated_type',
    before:
      'pub struct I; impl Iterator for I { type Item = u8; fn next(&mut self) -> Option<u8> { None } } pub fn user(i: std::iter::Peekable<I>) -> usize { size_of_val(&i) }',
    after:
      'pub struct I; impl Iterator for I { type Item = u64; fn next(&mut self) -> Option<u64> { None } } pub fn user(i: std::iter::Peekable<I>) -> usize { size_of_val(&i) }',
    refused: `\`core::iter::adapters::peekable::Peekable<CASE::I>\` has the field \`peeked: core::option::Option<core::option::Option<u64>>\`, which was \`core::option::Option<core::option::Option<u8>>\`; ${REMAINS}`,
  },
  {
    name: 'phantom',
    before: struct('pub a: u32'),
    after: struct('pub a: u32, pub p: std::marker::PhantomData<u64>'),
  },
  {
    name: 'union',
    before: 'pub union U { pub a: u32, pub b: f32 } pub fn user(u: U) -> u32 { unsafe { u.a } }',
    after: 'pub union U { pub a: u32, pub b: f32, pub c: u64 } pub fn user(u: U) -> u32 { unsafe { u.a } }',
    refused: `\`CASE::U\` has a new field \`c: u64\`; ${REMAINS}`,
  },
  {
    name: 'new_type',
    before: 'pub fn user() -> u8 { 1 }',
    after: `${struct('pub a: u32')} pub fn other() -> u8 { 2 }`,
  },
  { name: 'type_gone', before: `${struct('pub a: u32')} pub fn other() {}`, after: 'pub fn other() -> u8 { 2 }' },
  {
    name: 'only_moved',
    before: struct('pub a: u32'),
    after: `\n\n// A comment.\npub fn first(s: &S) -> u32 { s.a + 1 }\n${struct('pub a: u32')}`,
  },
  {
    name: 'two_of_one_name',
    before:
      'use std::any::Any; pub fn user(n: u8) -> [Box<dyn Any>; 2] { let one: Box<dyn Any> = { struct A(u8); Box::new(A(n as u8)) }; let two: Box<dyn Any> = { struct A(u64); Box::new(A(n as u64)) }; [one, two] }',
    after:
      'use std::any::Any; pub fn user(n: u8) -> [Box<dyn Any>; 2] { let one: Box<dyn Any> = { struct A(u64); Box::new(A(n as u64)) }; let two: Box<dyn Any> = { struct A(u8); Box::new(A(n as u8)) }; [one, two] }',
    refused: `several types are named \`CASE::user::A\`, and one of them has another shape; ${REMAINS}`,
  },
  // --------------------------------------------------------------------------------------------------------- enums
  {
    name: 'variant_added',
    before: 'pub enum E { A(u32), B } pub fn user(e: &E) -> u32 { match e { E::A(n) => *n, _ => 0 } }',
    after: 'pub enum E { A(u32), B, C } pub fn user(e: &E) -> u32 { match e { E::A(n) => *n, _ => 0 } }',
    refused: `\`CASE::E\` has a new variant \`C\`; ${REMAINS}`,
  },
  {
    name: 'variant_removed',
    before: 'pub enum E { A(u32), B, C } pub fn user(e: &E) -> u32 { match e { E::A(n) => *n, _ => 0 } }',
    after: 'pub enum E { A(u32), B } pub fn user(e: &E) -> u32 { match e { E::A(n) => *n, _ => 0 } }',
    refused: `\`CASE::E\` has no variant \`C\` now; ${REMAINS}`,
  },
  {
    name: 'variants_swapped',
    before: 'pub enum E { A(u32), B(u32) } pub fn user(e: &E) -> u32 { match e { E::A(n) => *n, _ => 0 } }',
    after: 'pub enum E { B(u32), A(u32) } pub fn user(e: &E) -> u32 { match e { E::A(n) => *n, _ => 0 } }',
    refused: `\`CASE::E\` has the number 0 for its variant \`B\` now, and had 1; ${REMAINS}`,
  },
  {
    name: 'variant_renamed',
    before: 'pub enum E { A(u32), B } pub fn user(e: &E) -> u32 { match e { E::A(n) => *n, E::B => 0 } }',
    after: 'pub enum E { A(u32), Nothing } pub fn user(e: &E) -> u32 { match e { E::A(n) => *n, E::Nothing => 1 } }',
  },
  {
    name: 'variant_with_more',
    before: 'pub enum E { A { x: u32 }, B(u64) } pub fn user(e: &E) -> u32 { match e { E::A { x } => *x, _ => 0 } }',
    after:
      'pub enum E { A { x: u32, y: u8 }, B(u64) } pub fn user(e: &E) -> u32 { match e { E::A { x, .. } => *x, _ => 0 } }',
    refused: `\`CASE::E\` has in its variant \`A\` a new field \`y: u8\`; ${REMAINS}`,
  },
  {
    name: 'plain_variant_added',
    before: 'pub enum E { A, B } pub fn user(e: E) -> u8 { e as u8 }',
    after: 'pub enum E { A, B, C } pub fn user(e: E) -> u8 { e as u8 }',
    refused: `\`CASE::E\` has a new variant \`C\`; ${REMAINS}`,
  },
  {
    name: 'plain_variants_swapped',
    before: 'pub enum E { A, B } pub fn user(e: E) -> u8 { e as u8 }',
    after: 'pub enum E { B, A } pub fn user(e: E) -> u8 { e as u8 }',
    refused: `\`CASE::E\` has the number 0 for its variant \`B\` now, and had 1; ${REMAINS}`,
  },
  {
    name: 'plain_variant_renamed',
    before: 'pub enum E { A, B = 200 } pub fn user(e: E) -> u8 { e as u8 }',
    after: 'pub enum E { A, Last = 200 } pub fn user(e: E) -> u8 { e as u8 }',
  },
  {
    name: 'niche',
    before: 'pub enum E { A, B } pub fn user(e: Option<E>, f: Option<Box<u8>>) -> bool { e.is_some() && f.is_none() }',
    after:
      'pub enum E { A, B, C } pub fn user(e: Option<E>, f: Option<Box<u8>>) -> bool { e.is_some() && f.is_none() }',
    refused: `\`CASE::E\` has a new variant \`C\`; ${REMAINS}`,
  },
  {
    name: 'niche_lost',
    before: 'pub struct S(pub std::num::NonZeroU32); pub fn user(s: Option<S>) -> usize { size_of_val(&s) }',
    after: 'pub struct S(pub u32); pub fn user(s: Option<S>) -> usize { size_of_val(&s) }',
    refused: `\`CASE::S\` has the field \`0: u32\`, which was \`core::num::nonzero::NonZero<u32>\`; ${REMAINS}`,
  },
  {
    name: 'tag_of_another_size',
    before: '#[repr(u8)] pub enum E { A(u32), B } pub fn user(e: &E) -> usize { size_of_val(e) }',
    after: '#[repr(u16)] pub enum E { A(u32), B } pub fn user(e: &E) -> usize { size_of_val(e) }',
    refused: `\`CASE::E\` has another way to tell its variants apart now; ${REMAINS}`,
  },
  {
    name: 'data_in_a_plain_enum',
    before: 'pub enum E { A, B } pub fn user(e: &E) -> usize { size_of_val(e) }',
    after: 'pub enum E { A, B(u8) } pub fn user(e: &E) -> usize { size_of_val(e) }',
    refused: `\`CASE::E\` is a struct or an enum with data now, and was an enum without data; ${REMAINS}`,
  },
  {
    name: 'wide_numbers',
    before: '#[repr(u64)] pub enum E { A = u64::MAX, B(u8) = 3 } pub fn user(e: &E) -> usize { size_of_val(e) }',
    after: '#[repr(u64)] pub enum E { A = u64::MAX - 1, B(u8) = 3 } pub fn user(e: &E) -> usize { size_of_val(e) }',
    refused: `\`CASE::E\` has the number 18446744073709551614 for its variant \`A\` now, and had 18446744073709551615; ${REMAINS}`,
  },
  // ------------------------------------------------------------------------------------------------------ closures
  {
    name: 'capture_added',
    before: 'pub fn make(a: u32, b: u32) -> Box<dyn Fn() -> u32> { Box::new(move || a + 1) }',
    after: 'pub fn make(a: u32, b: u32) -> Box<dyn Fn() -> u32> { Box::new(move || a + b) }',
    refused: `a closure in \`CASE::make\` ${CAPTURED}`,
  },
  {
    name: 'capture_of_another_type',
    before: 'pub fn make(a: u32, b: f32) -> Box<dyn Fn() -> u32> { Box::new(move || a) }',
    after: 'pub fn make(a: u32, b: f32) -> Box<dyn Fn() -> u32> { Box::new(move || b as u32) }',
    refused: `a closure in \`CASE::make\` ${CAPTURED}`,
  },
  {
    name: 'capture_of_another_variable',
    before: 'pub fn make(a: u32, b: u32) -> Box<dyn Fn() -> u32> { Box::new(move || a) }',
    after: 'pub fn make(a: u32, b: u32) -> Box<dyn Fn() -> u32> { Box::new(move || b) }',
    refused: `a closure in \`CASE::make\` ${CAPTURED}`,
  },
  {
    name: 'capture_in_a_method',
    before:
      'pub struct S { a: u32 } pub struct Other; impl Other { pub fn no(&self) {} } impl S { pub fn make(&self, b: u8) -> Box<dyn Fn() -> u32> { let a = self.a; Box::new(move || a) } }',
    after:
      'pub struct S { a: u32 } pub struct Other; impl Other { pub fn no(&self) {} } impl S { pub fn make(&self, b: u8) -> Box<dyn Fn() -> u32> { let a = self.a; Box::new(move || a + b as u32) } }',
    refused: `a closure in \`<CASE::S>::make\` ${CAPTURED}`,
  },
  {
    name: 'other_code',
    before: struct('pub a: u64', 'if s.a > 3 { return 1 }'),
    after: '\n' + struct('pub a: u64', 'if s.a > 77_777_777_777 { return s.a as usize }'),
  },
  {
    name: 'closure_body',
    before: 'pub fn make(a: u32) -> Box<dyn Fn() -> u32> { Box::new(move || a + 1) }',
    after: 'pub fn make(a: u32) -> Box<dyn Fn() -> u32> { Box::new(move || { let more = [a; 3]; more[0] * 2 }) }',
  },
  // ------------------------------------------------------------------------------------------------------ coroutines
  {
    name: 'held_across_an_await',
    before: `pub async fn y() {} pub async fn slow(n: u64) -> u64 { y().await; n } ${boxed('slow(1)')}`,
    after: `pub async fn y() {} pub async fn slow(n: u64) -> u64 { let m = [n; 3]; y().await; n + m[1] } ${boxed('slow(1)')}`,
    refused: `\`CASE::slow\` is async and holds other values across its awaits now; ${SUSPENDED}`,
  },
  {
    name: 'another_await',
    before: `pub async fn y() {} pub async fn slow(n: u64) -> u64 { y().await; n } ${boxed('slow(1)')}`,
    after: `pub async fn y() {} pub async fn slow(n: u64) -> u64 { y().await; y().await; n } ${boxed('slow(1)')}`,
    refused: `\`CASE::slow\` is async and holds other values across its awaits now; ${SUSPENDED}`,
  },
  {
    name: 'awaits_swapped',
    before: `pub async fn y() {} pub async fn z() {} pub async fn slow(n: u64) -> u64 { y().await; z().await; n } ${boxed('slow(1)')}`,
    after: `pub async fn y() {} pub async fn z() {} pub async fn slow(n: u64) -> u64 { z().await; y().await; n } ${boxed('slow(1)')}`,
    refused: `\`CASE::slow\` is async and holds other values across its awaits now; ${SUSPENDED}`,
  },
  {
    name: 'held_with_another_type',
    before: `pub async fn y() {} pub async fn slow(n: u64) -> u64 { let m = n; y().await; n + m } ${boxed('slow(1)')}`,
    after: `pub async fn y() {} pub async fn slow(n: u64) -> u64 { let m = n as f64; y().await; n + m as u64 } ${boxed('slow(1)')}`,
    refused: `\`CASE::slow\` is async and holds other values across its awaits now; ${SUSPENDED}`,
  },
  {
    name: 'held_by_what_is_awaited',
    before: `pub async fn y() {} pub async fn inner() { y().await } pub async fn slow(n: u64) -> u64 { inner().await; n } ${boxed('slow(1)')}`,
    after: `pub async fn y() {} pub async fn inner() { let k = [1u8; 9]; y().await; drop(k) } pub async fn slow(n: u64) -> u64 { inner().await; n } ${boxed('slow(1)')}`,
    refused: `\`CASE::inner\` is async and holds other values across its awaits now; ${SUSPENDED}`,
  },
  {
    name: 'async_body',
    before: `pub async fn y() {} pub async fn slow(n: u64) -> u64 { let m = n + 1; y().await; n + m } ${boxed('slow(1)')}`,
    after: `pub async fn y() {} pub async fn slow(n: u64) -> u64 { let m = n + 2; y().await; let k = [n, m, 7]; k[0] * 2 + k[1] } ${boxed('slow(1)')}`,
  },
  {
    name: 'async_block',
    before: `pub async fn y() {} ${boxed('async { y().await; 1 }')}`,
    after: `pub async fn y() {} ${boxed('async { let b = vec![1]; y().await; b[0] }')}`,
    refused: `an async block in \`CASE::root\` holds other values across its awaits now; ${SUSPENDED}`,
  },
  {
    name: 'async_method',
    before: `pub async fn y() {} pub struct S(u64); impl S { pub async fn slow(&self) -> u64 { y().await; self.0 } } pub fn root(s: &'static S) -> Pin<Box<dyn Future<Output = u64>>> { Box::pin(s.slow()) }`,
    after: `pub async fn y() {} pub struct S(u64); impl S { pub async fn slow(&self) -> u64 { let k = self.0; y().await; k } } pub fn root(s: &'static S) -> Pin<Box<dyn Future<Output = u64>>> { Box::pin(s.slow()) }`,
    refused: `\`<CASE::S>::slow\` is async and holds other values across its awaits now; ${SUSPENDED}`,
  },
  {
    name: 'new_async_block',
    before: `pub async fn y() {} pub async fn slow(n: u64) -> u64 { y().await; n } ${boxed('slow(1)')}`,
    after: `pub async fn y() {} pub async fn slow(n: u64) -> u64 { y().await; n } pub fn more() -> Pin<Box<dyn Future<Output = u64>>> { Box::pin(async { y().await; 2 }) } ${boxed('slow(1)')}`,
  },
  // ------------------------------------------------------------------------------------------------- traits, statics
  {
    name: 'trait_with_another_method',
    before:
      'pub trait T { fn a(&self) -> u8; } impl T for u8 { fn a(&self) -> u8 { *self } } pub fn user(t: &dyn T) -> u8 { t.a() }',
    after:
      'pub trait T { fn a(&self) -> u8; fn b(&self) -> u8 { 1 } } impl T for u8 { fn a(&self) -> u8 { *self } } pub fn user(t: &dyn T) -> u8 { t.a() + t.b() }',
    refused:
      'the trait behind `&dyn CASE::T` has more or fewer methods now; objects that exist were made with the old ones',
  },
  {
    name: 'static_of_another_type',
    before:
      'use std::sync::atomic::*; pub static N: AtomicU32 = AtomicU32::new(0); pub fn user() -> u32 { N.load(Ordering::Relaxed) }',
    after:
      'use std::sync::atomic::*; pub static N: AtomicI32 = AtomicI32::new(0); pub fn user() -> i32 { N.load(Ordering::Relaxed) }',
    refused:
      'static `CASE::N` is of type `core::sync::atomic::AtomicI32` now, and was `core::sync::atomic::AtomicU32`; the running program holds the old one',
  },
];

const sources = (side: 'before' | 'after'): string => `
  #![allow(unused, private_interfaces)]
  ${cases
    .map((edit) => `pub mod ${edit.name} { use std::{future::Future, mem::size_of_val, pin::Pin}; ${edit[side]} }`)
    .join('\n')}
  pub mod signatures {
    pub struct S { pub a: u32 }
    pub fn same(s: &S, n: u64) -> u8 { ${side === 'before' ? 'n as u8' : '7'} }
    pub fn area(side: ${side === 'before' ? 'u32' : 'f32'}) -> f64 { side as f64 }
    pub fn result() -> ${side === 'before' ? 'u32' : 'i32'} { 1 }
    impl S { pub fn method(&self, other: ${side === 'before' ? 'S' : '&S'}, _: u8) -> u32 { other.a } }
  }`;

const scratch = mkdtempSync(join(tmpdir(), 'hotslot-layout-'));
afterAll(() => rmSync(scratch, { recursive: true }));

function readAny(bytes: Uint8Array, name: string): ObjectFile {
  return bytes[0] === 0 ? readObject(bytes, name) : readElfObject(bytes, name);
}

/** One object for each codegen unit, which is one for each module. */
function membersOf(source: string, folder: string, flags: readonly string[]): { name: string; bytes: Uint8Array }[] {
  const place = join(scratch, folder);
  mkdirSync(place);
  writeFileSync(join(place, 'cases.rs'), source);
  const common = ['--edition=2021', '--crate-type=lib', '-Csymbol-mangling-version=v0', '-Cincremental=incremental'];
  // As edits are: compiled in the same place.
  common.push(`--remap-path-prefix=${place}=/cases`);
  const run = [...common, ...flags, 'cases.rs', '-o', 'libcases.rlib'];
  const command = 'rustc';
  const { status, stderr, error } = spawnSync(command, run, { cwd: place, encoding: 'utf8' });
  if (error !== undefined)
    expect.fail(`${command} is missing; install it: curl --proto '=https' https://sh.rustup.rs | sh`);
  if (stderr.includes("can't find crate for `std`")) expect.fail('rustup target add wasm32-unknown-unknown');
  if (status !== 0) expect.fail(stderr);
  const bytes = new Uint8Array(readFileSync(join(place, 'libcases.rlib')));
  return readArchive(bytes, 'libcases.rlib')
    .members.filter((member) => member.name.endsWith('.o'))
    .map((member) => ({ name: member.name.replace(/(?<=^\w+\.\w+)\..*$/, '.o'), bytes: member.bytes }));
}

function compile(source: string, folder: string, flags: readonly string[]): ObjectFile[] {
  return membersOf(source, folder, flags).map(({ name, bytes }) => readAny(bytes, name));
}

function compileElf(...call: Parameters<typeof compile>): ElfObject[] {
  return compile(...call).filter((object): object is ElfObject => 'elf' in object);
}

/** Objects with functions of a module. */
function ofModule(objects: readonly ObjectFile[], module: string): ObjectFile[] {
  const path = new RegExp(`^(?:cases::${module}\\b|<cases::${module}::\\w+>::)`);
  return objects.filter(({ symbols }) =>
    symbols.some(({ name, kind, atom }) => kind === 'function' && atom !== undefined && path.test(readable(name))),
  );
}

function everything(objects: readonly ObjectFile[]): Change[] {
  return objects.flatMap((object) => [...namedDefinitions(object)].map((after) => ({ after })));
}

function reasonFor(
  before: readonly ObjectFile[],
  after: readonly ObjectFile[],
  options?: LayoutOptions,
): string | undefined {
  return layoutRefusal(before, after, everything(after), options)?.reason;
}

/** The object of a tiny crate. */
function tiny(folder: string, ...flags: string[]): ElfObject {
  const [object] = compileElf('pub struct S(pub u8); pub fn user(s: &S) -> u8 { s.0 }', folder, flags);
  return object ?? expect.fail('no object');
}

function isPlainlyLike(before: readonly ObjectFile[], after: readonly ObjectFile[]): boolean {
  return after.every((object) => {
    const old = before.find(({ name }) => name === object.name);
    return old !== undefined && debugInfo(object)?.isLike(debugInfo(old) ?? expect.fail('no debug information'));
  });
}

describe.each([
  ['DWARF 4', ['-Cdebuginfo=2', '-Cdwarf-version=4']],
  ['DWARF 5', ['-Cdebuginfo=2', '-Cdwarf-version=5']],
  ['DWARF 5, optimised', ['-Cdebuginfo=2', '-Cdwarf-version=5', '-Copt-level=1']],
  ['wasm', ['-Cdebuginfo=2', '--target=wasm32-unknown-unknown']],
])('%s', (title, flags) => {
  let old: ObjectFile[] = [];
  let now: ObjectFile[] = [];
  beforeAll(() => {
    old = compile(sources('before'), `${title} before`, flags);
    now = compile(sources('after'), `${title} after`, flags);
  }, 120_000);

  test.each(cases)('$name', ({ name, refused }) => {
    const before = ofModule(old, name);
    const after = ofModule(now, name);
    expect(before).not.toEqual([]);
    expect(after).not.toEqual([]);
    const expected = refused?.replaceAll('CASE', `cases::${name}`);
    expect(reasonFor(before, after)).toBe(expected);
    // Of another name, it is compared type by type also where it is plain that nothing changed.
    const renamed = (objects: readonly ObjectFile[]): ObjectFile[] =>
      objects.map((object) => ({ ...object, name: `${object.name} renamed` }));
    expect(reasonFor(renamed(before), after)).toBe(expected);
    expect(reasonFor(renamed(before), before)).toBeUndefined();
    expect(reasonFor(renamed(after), after)).toBeUndefined();
    expect(isPlainlyLike(before, before)).toBe(true);
    if (refused !== undefined) expect(isPlainlyLike(before, after)).toBe(false);
  });

  test('that other code works on the same types is plain to see', () => {
    expect(isPlainlyLike(ofModule(old, 'other_code'), ofModule(now, 'other_code'))).toBe(true);
  });

  test('signatures', () => {
    const before = ofModule(old, 'signatures');
    const after = ofModule(now, 'signatures');
    const signature = (objects: readonly ObjectFile[], path: string): string | undefined => {
      for (const object of objects) {
        const symbol = object.symbols.find(({ name, atom }) => atom !== undefined && readable(name) === path);
        if (symbol !== undefined) return signatureOf(object, symbol.name);
      }
      return expect.fail(`no ${path}`);
    };
    expect(signature(before, 'cases::signatures::same')).toBe('(&cases::signatures::S, u64)->u8');
    expect(signature(after, 'cases::signatures::same')).toBe('(&cases::signatures::S, u64)->u8');
    expect(signature(before, 'cases::signatures::area')).toBe('(u32)->f64');
    expect(signature(after, 'cases::signatures::area')).toBe('(f32)->f64');
    expect(signature(before, 'cases::signatures::result')).toBe('()->u32');
    expect(signature(after, 'cases::signatures::result')).toBe('()->i32');
    const method = '<cases::signatures::S>::method';
    expect(signature(before, method)).toMatch(/^\(&cases::signatures::S, cases::signatures::S#4:\w+, u8\)->u32$/);
    expect(signature(after, method)).toBe('(&cases::signatures::S, &cases::signatures::S, u8)->u32');
  });
});

describe('what is asked besides', () => {
  let old: ObjectFile[] = [];
  let now: ObjectFile[] = [];
  beforeAll(() => {
    old = compile(sources('before'), 'old', ['-Cdebuginfo=2']);
    now = compile(sources('after'), 'now', ['-Cdebuginfo=2']);
  }, 120_000);

  test('an object without a change is not read', () => {
    const before = ofModule(old, 'field_added');
    const after = ofModule(now, 'field_added');
    expect(layoutRefusal(before, after, [])).toBeUndefined();
    expect(layoutRefusal(before, after, everything(after), { remedy: 'reload' })?.remedy).toBe('reload');
  });

  test('what another replaced object described is compared', () => {
    const elsewhere = [...ofModule(old, 'repr_c'), ...ofModule(old, 'field_added')];
    const after = ofModule(now, 'field_added').map((object) => ({ ...object, name: 'cases.other.o' }));
    expect(reasonFor(elsewhere, after)).toContain('`cases::field_added::S` has a new field');
  });

  test('types of crates that stay as they are are passed over', () => {
    const [before, after] = [ofModule(old, 'field_added'), ofModule(now, 'field_added')];
    expect(reasonFor(before, after, { isFixed: (crate) => crate === 'cases' })).toBeUndefined();
    expect(reasonFor(before, after, { isFixed: (crate) => crate === 'axum' })).toBeDefined();
  });

  test('a type that left the program is remembered', () => {
    const [before, after] = [ofModule(old, 'field_added'), ofModule(now, 'field_added')];
    const gone = goneTypes(before, []);
    expect(gone.has('cases::field_added::S')).toBe(true);
    expect(reasonFor([], before, { gone })).toBeUndefined();
    expect(reasonFor([], after, { gone })).toBe(
      `\`cases::field_added::S\` is back with another shape than it had when the program last knew it; ${REMAINS}`,
    );
    expect(goneTypes(before, before).has('cases::field_added::S')).toBe(false);
    // Nothing left in the object is another: what is missing tells.
    const without = ofModule(old, 'type_gone').map((object) => ({ ...object, name: before[0]?.name ?? '' }));
    expect(goneTypes(before, without, { changes: [] }).has('cases::field_added::S')).toBe(true);
  });

  test('so is a static', () => {
    const [before, after] = [ofModule(old, 'static_of_another_type'), ofModule(now, 'static_of_another_type')];
    const gone = goneTypes(before, []);
    expect(reasonFor([], before, { gone })).toBeUndefined();
    expect(reasonFor([], after, { gone })).toContain('static `cases::static_of_another_type::N` is of type');
  });
});

describe('debug information that does not tell', () => {
  const UNTOLD = /^`libcases` was compiled without full debug information/;

  test.each([
    ['none', '-Cdebuginfo=0'],
    ['lines', '-Cdebuginfo=line-tables-only'],
    ['names', '-Cdebuginfo=1'],
    ['split', '-Cdebuginfo=2', '-Csplit-debuginfo=unpacked'],
  ])('%s', (folder, ...flags) => {
    const object = tiny(folder, ...flags);
    expect(reasonFor([object], [object])).toMatch(UNTOLD);
    expect(reasonFor([object], [object], { mayBeSilent: true })).toBeUndefined();
    expect(reasonFor([object], [object], { isTold: () => true })).toBeUndefined();
    expect(signatureOf(object, 'no such function')).toBeUndefined();
  });

  /** The tiny object with a byte of one of its sections, or of that section's header, set. */
  function broken(
    folder: string,
    section: string,
    edit: (bytes: Uint8Array, at: number, header: number) => void,
  ): ElfObject {
    const { name, elf } = tiny(folder, '-Cdebuginfo=2', '-Cdwarf-version=4');
    const index = elf.sections.findIndex((candidate) => candidate.name === section);
    const bytes = new Uint8Array(elf.sizeBytes);
    bytes.set(writeElf(elf));
    edit(bytes, elf.sections[index]?.offset ?? 0, elf.header.sectionOffset + 64 * index);
    return readElfObject(bytes, name);
  }

  test('a form that DWARF does not have', () => {
    let at = 0;
    // The first abbreviation: code, tag, whether there are children, an attribute and its form.
    const object = broken('form', '.debug_abbrev', (bytes, start) => (bytes[(at = start + 4)] = 0x7e));
    const error = expect.objectContaining({ expected: 'a form of DWARF 5', offset: at });
    expect(() => [...(debugInfo(object)?.typeNames ?? [])]).toThrow(MalformedError);
    expect(thrown(() => debugInfo(object))).toEqual(error);
    expect(reasonFor([object], [object])).toMatch(
      /^whether memory keeps its shape cannot be told: .*, found form 0x7e/,
    );
  });

  test('another version', () => {
    const object = broken('version', '.debug_info', (bytes, start) => (bytes[start + 4] = 3));
    expect(reasonFor([object], [object])).toContain('expected DWARF 4 or 5, found version 3');
  });

  test('a compressed section', () => {
    const object = broken('compressed', '.debug_info', (bytes, _, header) => (bytes[header + 9] = 8));
    expect(reasonFor([object], [object])).toContain('expected .debug_info as it is, found a compressed section');
  });
});

test('mutated debug information is read or refused', () => {
  const seed = Date.now() % 1_000_000;
  console.log(`fuzz seed ${seed}`);
  const source = sources('before');
  const objects = ['-Cdwarf-version=4', '-Cdwarf-version=5', '--target=wasm32-unknown-unknown'].flatMap((flag) =>
    membersOf(source, `fuzz ${flag}`, ['-Cdebuginfo=2', flag])
      .filter(({ name, bytes }) => ofModule([readAny(bytes, name)], 'async_method').length > 0)
      .map(({ name, bytes }) => ({ name: `${flag} ${name}`, bytes })),
  );
  expect(objects.length).toBeGreaterThan(2);
  expect(fuzzDwarf(400, seed, objects)).toBeGreaterThan(100);
}, 60_000);

function thrown(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
  return expect.fail('nothing was thrown');
}
