package ethereum

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/ethereum/go-ethereum/common"
)

// What a validator answers, in one byte.
const (
	answerNo     = 0
	answerYes    = 1
	answerNoCode = 2 // the account is no contract, and nothing says how to make one
)

// The opcodes that a validator uses. All of them are older than ERC-1271, so it
// runs on every chain and at every block that has a contract to ask.
const (
	opLT             = 0x10
	opEQ             = 0x14
	opIsZero         = 0x15
	opAnd            = 0x16
	opCodeCopy       = 0x39
	opExtCodeSize    = 0x3b
	opReturnDataSize = 0x3d
	opPop            = 0x50
	opMLoad          = 0x51
	opMStore         = 0x52
	opMStore8        = 0x53
	opJump           = 0x56
	opJumpI          = 0x57
	opJumpDest       = 0x5b
	opPush1          = 0x60 // PUSHn is opPush1+n-1
	opDup1           = 0x80
	opCall           = 0xf1
	opReturn         = 0xf3
	opStaticCall     = 0xfa
)

// callGas is what one call of a validator may burn, and totalGas what a validator
// may: three calls, its own data and little more. It is also the most that one
// transaction may use (EIP-7825). Both are fixed, so that a wallet which runs out
// of gas does so whoever asks.
const (
	callGas  = 4_500_000
	totalGas = 1 << 24
)

// validator is a program that asks a contract about a signature: the init code of
// a contract creation, which a node carries out in one eth_call and forgets. The
// code that it "deploys" is the answer. So a contract that does not exist yet can
// be made and asked in one step, as ERC-6492 wants:
//
//	no wrapper: code there? ask it : answerNoCode
//	a wrapper:  code there? ask it, and where it says no: prepare it and ask again
//	                      : make it and ask
func validator(account common.Address, d *deployment, ask []byte) []byte {
	p := &program{labels: map[string]int{}}
	p.push(account[:]).op(opExtCodeSize).jumpIf("deployed") // code size ? → deployed
	if d == nil {
		p.push([]byte{answerNoCode}).jump("done")
		p.label("deployed").ask(account, ask)
	} else {
		p.call(d).op(opIsZero).jumpIf("no")
		p.ask(account, ask).jump("done")
		p.label("deployed").ask(account, ask)
		p.op(opDup1).jumpIf("done").op(opPop)
		p.call(d).op(opIsZero).jumpIf("no")
		p.ask(account, ask).jump("done")
		p.label("no").push([]byte{answerNo})
	}
	p.label("done")                  // stack: answer
	p.pushN(0).op(opMStore8)         // memory[0] = answer
	p.pushN(1).pushN(0).op(opReturn) // return memory[0:1]
	return p.assemble()
}

// A program is code in the making: opcodes, data that lies behind them, and
// places in both that are known only at the end.
type program struct {
	code   []byte
	data   [][]byte
	labels map[string]int // where each JUMPDEST stands
	jumps  []jump
	loads  []load
}

// A jump and a load leave bytes of the code to be filled in: two with where a
// label stands, four with where a piece of data begins.
type jump struct {
	at int
	to string
}

type load struct{ at, piece int }

func (p *program) op(codes ...byte) *program {
	p.code = append(p.code, codes...)
	return p
}

// push pushes 1 to 32 bytes.
func (p *program) push(b []byte) *program { return p.op(opPush1 + byte(len(b)) - 1).op(b...) }

func (p *program) pushN(n uint32) *program {
	return p.push(binary.BigEndian.AppendUint32(nil, n))
}

func (p *program) label(name string) *program {
	p.labels[name] = len(p.code)
	return p.op(opJumpDest)
}

func (p *program) pushLabel(to string) *program {
	p.push(make([]byte, 2))
	p.jumps = append(p.jumps, jump{len(p.code) - 2, to})
	return p
}

func (p *program) jump(to string) *program   { return p.pushLabel(to).op(opJump) }
func (p *program) jumpIf(to string) *program { return p.pushLabel(to).op(opJumpI) }

// input is where a call's input lies in memory: behind the word for its answer.
const input = 32

// load copies data that travels behind the code to memory[input:].
func (p *program) load(data []byte) *program {
	p.pushN(uint32(len(data))).pushN(0)
	piece := slices.IndexFunc(p.data, func(known []byte) bool { return bytes.Equal(known, data) })
	if piece < 0 {
		piece, p.data = len(p.data), append(p.data, data)
	}
	p.loads = append(p.loads, load{len(p.code) - 4, piece})
	return p.pushN(input).op(opCodeCopy)
}

// call calls a factory; stack: whether it did not revert.
func (p *program) call(d *deployment) *program {
	p.load(d.call)
	p.pushN(0).pushN(0)                                // answer: not wanted
	p.pushN(uint32(len(d.call))).pushN(input).pushN(0) // input, and no value
	return p.push(d.factory[:]).pushN(callGas).op(opCall)
}

// ask calls isValidSignature; stack: 1 where there is code, it did not revert,
// and returned a word or more of which the first is the magic value, else 0.
func (p *program) ask(account common.Address, call []byte) *program {
	p.load(call)
	p.pushN(0).pushN(0).op(opMStore)                                       // clear memory[0:32]
	p.pushN(32).pushN(0).pushN(uint32(len(call))).pushN(input)             // answer, input
	p.push(account[:]).pushN(callGas).op(opStaticCall)                     // did not revert
	p.op(opReturnDataSize).pushN(31).op(opLT, opAnd)                       // 31 < size
	p.pushN(0).op(opMLoad)                                                 // the answer's first word
	p.push(append(magic[:], make([]byte, 28)...)).op(opEQ, opAnd)          // is the magic value
	return p.push(account[:]).op(opExtCodeSize, opIsZero, opIsZero, opAnd) // and is a contract's
}

// assemble fills in what was open.
func (p *program) assemble() []byte {
	for _, j := range p.jumps {
		binary.BigEndian.PutUint16(p.code[j.at:], uint16(p.labels[j.to]))
	}
	begins := make([]int, len(p.data))
	whole := slices.Clone(p.code)
	for i, d := range p.data {
		begins[i] = len(whole)
		whole = append(whole, d...)
	}
	for _, l := range p.loads {
		binary.BigEndian.PutUint32(whole[l.at:], uint32(begins[l.piece]))
	}
	return whole
}
