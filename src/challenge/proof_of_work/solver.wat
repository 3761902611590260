;; Solves one puzzle of a proof of work, four nonces at a time.
;;
;; A message is ten words, of which the last is the nonce: `seed 8 | puzzle | nonce`, and fits one block
;; of SHA-256 (FIPS 180-4). Each v128 holds that word of four messages whose nonces follow each other.
;;
;; Memory, in bytes:
;;      0   the ten words, each an i32 (the caller writes nine; the last counts for nothing)
;;     64   the 64 round constants, each an i32
;;    512   the message schedule, 64 words of four lanes
(module
  (memory (export "memory") 1)
  (data (i32.const 64)
    "\98\2f\8a\42\91\44\37\71\cf\fb\c0\b5\a5\db\b5\e9\5b\c2\56\39\f1\11\f1\59\a4\82\3f\92\d5\5e\1c\ab"
    "\98\aa\07\d8\01\5b\83\12\be\85\31\24\c3\7d\0c\55\74\5d\be\72\fe\b1\de\80\a7\06\dc\9b\74\f1\9b\c1"
    "\c1\69\9b\e4\86\47\be\ef\c6\9d\c1\0f\cc\a1\0c\24\6f\2c\e9\2d\aa\84\74\4a\dc\a9\b0\5c\da\88\f9\76"
    "\52\51\3e\98\6d\c6\31\a8\c8\27\03\b0\c7\7f\59\bf\f3\0b\e0\c6\47\91\a7\d5\51\63\ca\06\67\29\29\14"
    "\85\0a\b7\27\38\21\1b\2e\fc\6d\2c\4d\13\0d\38\53\54\73\0a\65\bb\0a\6a\76\2e\c9\c2\81\85\2c\72\92"
    "\a1\e8\bf\a2\4b\66\1a\a8\70\8b\4b\c2\a3\51\6c\c7\19\e8\92\d1\24\06\99\d6\85\35\0e\f4\70\a0\6a\10"
    "\16\c1\a4\19\08\6c\37\1e\4c\77\48\27\b5\bc\b0\34\b3\0c\1c\39\4a\aa\d8\4e\4f\ca\9c\5b\f3\6f\2e\68"
    "\ee\82\8f\74\6f\63\a5\78\14\78\c8\84\08\02\c7\8c\fa\ff\be\90\eb\6c\50\a4\f7\a3\f9\be\f2\78\71\c6")

  ;; The first nonce from `nonce` on, of `count` (rounded up to a multiple of four), whose hash begins with
  ;; a word of at most `limit`; -1 when there is none. As unsigned numbers, all of them.
  (func (export "solve") (param $nonce i32) (param $count i32) (param $limit i32) (result i32)
    (local $at i32) (local $k i32)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (local $e v128) (local $f v128) (local $g v128) (local $h v128)
    (local $x v128) (local $y v128) (local $lanes v128)

    (local.set $lanes (i32x4.splat (local.get $limit)))
    ;; The words that are the same for every nonce; from the eleventh on: padding, and 320 bits of length.
    (loop $words
      (v128.store offset=512 (i32.shl (local.get $at) (i32.const 2))
        (v128.load32_splat (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 4)))
      (br_if $words (i32.lt_u (local.get $at) (i32.const 40))))
    (v128.store offset=672 (i32.const 0) (i32x4.splat (i32.const 0x80000000)))
    (v128.store offset=688 (i32.const 0) (v128.const i64x2 0 0))
    (v128.store offset=704 (i32.const 0) (v128.const i64x2 0 0))
    (v128.store offset=720 (i32.const 0) (v128.const i64x2 0 0))
    (v128.store offset=736 (i32.const 0) (v128.const i64x2 0 0))
    (v128.store offset=752 (i32.const 0) (i32x4.splat (i32.const 320)))

    (loop $nonces
      (v128.store offset=656 (i32.const 0)
        (i32x4.add (i32x4.splat (local.get $nonce)) (v128.const i32x4 0 1 2 3)))

      ;; The schedule: w[t] = w[t-16] + s0(w[t-15]) + w[t-7] + s1(w[t-2])
      (local.set $at (i32.const 0))
      (loop $schedule
        (local.set $x (v128.load offset=528 (local.get $at)))
        (local.set $y (v128.load offset=736 (local.get $at)))
        (v128.store offset=768 (local.get $at)
          (i32x4.add
            (i32x4.add
              (v128.load offset=512 (local.get $at))
              (v128.xor
                (v128.xor
                  (v128.or (i32x4.shr_u (local.get $x) (i32.const 7)) (i32x4.shl (local.get $x) (i32.const 25)))
                  (v128.or (i32x4.shr_u (local.get $x) (i32.const 18)) (i32x4.shl (local.get $x) (i32.const 14))))
                (i32x4.shr_u (local.get $x) (i32.const 3))))
            (i32x4.add
              (v128.load offset=656 (local.get $at))
              (v128.xor
                (v128.xor
                  (v128.or (i32x4.shr_u (local.get $y) (i32.const 17)) (i32x4.shl (local.get $y) (i32.const 15)))
                  (v128.or (i32x4.shr_u (local.get $y) (i32.const 19)) (i32x4.shl (local.get $y) (i32.const 13))))
                (i32x4.shr_u (local.get $y) (i32.const 10))))))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if $schedule (i32.lt_u (local.get $at) (i32.const 768))))

      (local.set $a (i32x4.splat (i32.const 0x6a09e667)))
      (local.set $b (i32x4.splat (i32.const 0xbb67ae85)))
      (local.set $c (i32x4.splat (i32.const 0x3c6ef372)))
      (local.set $d (i32x4.splat (i32.const 0xa54ff53a)))
      (local.set $e (i32x4.splat (i32.const 0x510e527f)))
      (local.set $f (i32x4.splat (i32.const 0x9b05688c)))
      (local.set $g (i32x4.splat (i32.const 0x1f83d9ab)))
      (local.set $h (i32x4.splat (i32.const 0x5be0cd19)))
      (local.set $k (i32.const 0))
      (local.set $at (i32.const 0))
      (loop $rounds
        ;; x = h + S1(e) + ch(e, f, g) + k[t] + w[t]
        (local.set $x
          (i32x4.add
            (i32x4.add
              (i32x4.add (local.get $h)
                (i32x4.add (v128.load32_splat offset=64 (local.get $k)) (v128.load offset=512 (local.get $at))))
              (v128.bitselect (local.get $f) (local.get $g) (local.get $e)))
            (v128.xor
              (v128.xor
                (v128.or (i32x4.shr_u (local.get $e) (i32.const 6)) (i32x4.shl (local.get $e) (i32.const 26)))
                (v128.or (i32x4.shr_u (local.get $e) (i32.const 11)) (i32x4.shl (local.get $e) (i32.const 21))))
              (v128.or (i32x4.shr_u (local.get $e) (i32.const 25)) (i32x4.shl (local.get $e) (i32.const 7))))))
        ;; y = S0(a) + maj(a, b, c)
        (local.set $y
          (i32x4.add
            (v128.xor
              (v128.xor
                (v128.or (i32x4.shr_u (local.get $a) (i32.const 2)) (i32x4.shl (local.get $a) (i32.const 30)))
                (v128.or (i32x4.shr_u (local.get $a) (i32.const 13)) (i32x4.shl (local.get $a) (i32.const 19))))
              (v128.or (i32x4.shr_u (local.get $a) (i32.const 22)) (i32x4.shl (local.get $a) (i32.const 10))))
            (v128.or
              (v128.and (local.get $a) (local.get $b))
              (v128.and (local.get $c) (v128.or (local.get $a) (local.get $b))))))
        (local.set $h (local.get $g))
        (local.set $g (local.get $f))
        (local.set $f (local.get $e))
        (local.set $e (i32x4.add (local.get $d) (local.get $x)))
        (local.set $d (local.get $c))
        (local.set $c (local.get $b))
        (local.set $b (local.get $a))
        (local.set $a (i32x4.add (local.get $x) (local.get $y)))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if $rounds
          (i32.lt_u (local.tee $k (i32.add (local.get $k) (i32.const 4))) (i32.const 256))))

      (local.set $x
        (i32x4.le_u
          (i32x4.add (local.get $a) (i32x4.splat (i32.const 0x6a09e667)))
          (local.get $lanes)))
      (if (v128.any_true (local.get $x))
        (then
          (return (i32.add (local.get $nonce) (i32.ctz (i32x4.bitmask (local.get $x)))))))
      (local.set $nonce (i32.add (local.get $nonce) (i32.const 4)))
      (local.set $count (i32.sub (local.get $count) (i32.const 4)))
      (br_if $nonces (i32.gt_s (local.get $count) (i32.const 0))))
    (i32.const -1)))
