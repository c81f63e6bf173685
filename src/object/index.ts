// The public part of the object stage: re-exports only.
export { type Archive, type IndexEntry, type Member, readArchive, writeArchive } from './archive.ts';
export { MalformedError, Reader, Writer } from './bytes.ts';
export * from './leb128.ts';
export * from './linking.ts';
export { functionNames, type NameSubsection, readNames, writeNames } from './names.ts';
export { rewriteIndices, type Space, type Visitor, walkBody, walkExpression } from './operators.ts';
export * from './relocations.ts';
export { encodeSignature, formatSignature, parameterCount, parseSignature, type ValueType } from './signature.ts';
export * from './symbols.ts';
export * from './wasm.ts';
export { type Elf, readElf, writeElf } from './elf.ts';
export * from './elfimage.ts';
export * from './elfobject.ts';
export * from './elfeditor.ts';
export * from './elfwriter.ts';
export * from './x86_64.ts';
