// What Kubernetes itself says to objects: for each YAML document of standard input a line of JSON, in which an object of a
// list has an answer of its own.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/api/service"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/batch"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	batchvalidation "k8s.io/kubernetes/pkg/apis/batch/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/capabilities"
	"k8s.io/kubernetes/pkg/securitycontext"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// An Answer is what is said to one object.
type Answer struct {
	Kind string `json:"kind"`
	// Whether this program knows the kind.
	Known bool `json:"known"`
	// Sentences of the API server, by which the object is refused.
	Errors []string `json:"errors"`
	// Sentences of the API server, which kubectl shows.
	Warnings []string `json:"warnings"`
	// Sentences of the API server to a controller that makes pods of the object.
	PodErrors []string `json:"podErrors"`
	// What violates the levels of Pod Security.
	Baseline   string `json:"baseline"`
	Restricted string `json:"restricted"`
	// The containers of the pod as the kubelet sees them, by their names.
	Containers map[string]Container `json:"containers"`
}

// A Container is what the kubelet asks the runtime for.
type Container struct {
	*corev1.SecurityContext
	NoNewPrivileges bool `json:"noNewPrivileges"`
}

var served = map[schema.GroupVersion]bool{
	corev1.SchemeGroupVersion:  true,
	appsv1.SchemeGroupVersion:  true,
	batchv1.SchemeGroupVersion: true,
}

func main() {
	log.SetFlags(0)
	// kube-apiserver --allow-privileged, as everybody has it.
	capabilities.Setup(true, 0)
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks())
	if err != nil {
		log.Fatal(err)
	}
	documents := yamlutil.NewYAMLReader(bufio.NewReader(os.Stdin))
	out := json.NewEncoder(os.Stdout)
	for {
		document, err := documents.Read()
		if err == io.EOF {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		text, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			log.Fatalf("%v in:\n%s", err, document)
		}
		answers := []Answer{}
		for _, object := range objects(text) {
			answers = append(answers, answer(object, evaluator))
		}
		if err := out.Encode(answers); err != nil {
			log.Fatal(err)
		}
	}
}

// The objects of a list, as kubectl sends them, or the one object.
func objects(text []byte) []json.RawMessage {
	if bytes.Equal(bytes.TrimSpace(text), []byte("null")) {
		return nil
	}
	var list struct {
		Kind  string
		Items []json.RawMessage
	}
	if err := json.Unmarshal(text, &list); err == nil && strings.HasSuffix(list.Kind, "List") && list.Items != nil {
		return list.Items
	}
	return []json.RawMessage{text}
}

// What handlers.CreateResource in k8s.io/apiserver does with the body of a request, up to the storage.
func answer(text []byte, evaluator policy.Evaluator) Answer {
	var said metav1.TypeMeta
	if err := json.Unmarshal(text, &said); err != nil {
		log.Fatal(err)
	}
	result := Answer{Kind: said.Kind, Containers: map[string]Container{}}
	kind := schema.FromAPIVersionAndKind(said.APIVersion, said.Kind)
	// Of which nothing is served any more.
	result.Known = kind.Group == "extensions" || legacyscheme.Scheme.IsGroupRegistered(kind.Group)
	if !result.Known {
		return result
	}
	if !served[kind.GroupVersion()] || !legacyscheme.Scheme.Recognizes(kind) {
		missing := meta.NoKindMatchError{GroupKind: kind.GroupKind(), SearchedVersions: []string{kind.Version}}
		result.Errors = append(result.Errors, missing.Error())
		return result
	}
	info, _ := runtime.SerializerInfoForMediaType(legacyscheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeJSON)
	internal := schema.GroupVersion{Group: kind.Group, Version: runtime.APIVersionInternal}
	object, _, err := legacyscheme.Codecs.DecoderToVersion(info.StrictSerializer, internal).Decode(text, &kind, nil)
	if err != nil {
		// transformDecodeError in k8s.io/apiserver/pkg/endpoints/handlers.
		cause := fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", kind.Kind, kind.Version, kind.Kind, err)
		result.Errors = append(result.Errors, cause)
		return result
	}
	// rest.BeforeCreate and rest.FillObjectMetaSystemFields in k8s.io/apiserver.
	if object, err := meta.Accessor(object); err == nil {
		if object.GetNamespace() == "" && said.Kind != "Namespace" {
			object.SetNamespace(metav1.NamespaceDefault)
		}
		if object.GetName() == "" && object.GetGenerateName() != "" {
			object.SetName(object.GetGenerateName() + "00000")
		}
		object.SetUID("00000000-0000-0000-0000-000000000000")
	}
	result.Errors, result.Warnings = validate(object)
	external, err := legacyscheme.Scheme.ConvertToVersion(object, kind.GroupVersion())
	if err != nil {
		log.Fatal(err)
	}
	if template := template(external); template != nil {
		// As the controllers make it: ports of the host network have defaults in a pod only.
		pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		pod.Name, pod.Namespace = "pod", metav1.NamespaceDefault
		legacyscheme.Scheme.Default(pod)
		internal := &core.Pod{}
		if err := legacyscheme.Scheme.Convert(pod, internal, nil); err != nil {
			log.Fatal(err)
		}
		result.PodErrors, _ = validate(internal)
		violations := func(level api.Level) string {
			version := api.LevelVersion{Level: level, Version: api.LatestVersion()}
			results := policy.AggregateCheckResults(evaluator.EvaluatePod(version, &pod.ObjectMeta, &pod.Spec))
			return results.ForbiddenDetail()
		}
		result.Baseline, result.Restricted = violations(api.LevelBaseline), violations(api.LevelRestricted)
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for _, container := range list {
				effective := securitycontext.DetermineEffectiveSecurityContext(pod, &container)
				privileges := securitycontext.AddNoNewPrivileges(effective)
				result.Containers[container.Name] = Container{effective, privileges}
			}
		}
	}
	return result
}

// What the strategies in k8s.io/kubernetes/pkg/registry say to a new object: errors and warnings.
func validate(object runtime.Object) (errors, warnings []string) {
	problems, warnings := strategy(object)
	for _, problem := range problems {
		errors = append(errors, problem.Error())
	}
	return errors, warnings
}

func strategy(object runtime.Object) (problems field.ErrorList, warnings []string) {
	ctx := context.Background()
	options := func(template *core.PodTemplateSpec, keys ...string) corevalidation.PodValidationOptions {
		podutil.DropDisabledTemplateFields(template, nil)
		warnings = podutil.GetWarningsForPodTemplate(ctx, field.NewPath(keys[0], keys[1:]...), template, nil)
		return podutil.GetValidationOptionsFromPodTemplate(template, nil)
	}
	switch object := object.(type) {
	case *core.Pod:
		podutil.DropDisabledPodFields(object, nil)
		warnings = podutil.GetWarningsForPod(ctx, object, nil)
		options := podutil.GetValidationOptionsFromPodSpecAndMeta(&object.Spec, nil, &object.ObjectMeta, nil)
		options.ResourceIsPod = true
		problems = corevalidation.ValidatePodCreate(object, options)
	case *core.ReplicationController:
		problems = corevalidation.ValidateReplicationController(object, options(object.Spec.Template, "spec", "template"))
	case *core.PodTemplate:
		problems = corevalidation.ValidatePodTemplate(object, options(&object.Template, "template"))
	case *core.Service:
		// As the allocators do, before anything is validated (pkg/registry/core/service/storage).
		if service.NeedsHealthCheck(object) && object.Spec.HealthCheckNodePort == 0 {
			object.Spec.HealthCheckNodePort = 30000
		}
		problems = corevalidation.ValidateServiceCreate(object)
	case *apps.DaemonSet:
		problems = appsvalidation.ValidateDaemonSet(object, options(&object.Spec.Template, "spec", "template"))
	case *apps.Deployment:
		problems = appsvalidation.ValidateDeployment(object, options(&object.Spec.Template, "spec", "template"))
	case *apps.ReplicaSet:
		problems = appsvalidation.ValidateReplicaSet(object, options(&object.Spec.Template, "spec", "template"))
	case *apps.StatefulSet:
		problems = appsvalidation.ValidateStatefulSet(object, options(&object.Spec.Template, "spec", "template"))
	case *batch.Job:
		generateSelector(object)
		options := options(&object.Spec.Template, "spec", "template")
		problems = batchvalidation.ValidateJob(
			object, batchvalidation.JobValidationOptions{PodValidationOptions: options, RequirePrefixedLabels: true},
		)
	case *batch.CronJob:
		options := options(&object.Spec.JobTemplate.Spec.Template, "spec", "jobTemplate", "spec", "template")
		problems = batchvalidation.ValidateCronJobCreate(object, options)
	}
	return problems, warnings
}

// The labels that make the pods of a job its own (PrepareForCreate in pkg/registry/batch/job).
func generateSelector(job *batch.Job) {
	if job.Spec.ManualSelector != nil && *job.Spec.ManualSelector {
		return
	}
	uid := string(job.UID)
	labels := map[string]string{
		batch.LegacyJobNameLabel: job.Name, batch.JobNameLabel: job.Name,
		batch.LegacyControllerUidLabel: uid, batch.ControllerUidLabel: uid,
	}
	for label, value := range job.Spec.Template.Labels {
		labels[label] = value
	}
	job.Spec.Template.Labels = labels
	job.Spec.Selector = metav1.AddLabelToSelector(&metav1.LabelSelector{}, batch.ControllerUidLabel, uid)
}

// The pod in an object (DefaultPodSpecExtractor in k8s.io/pod-security-admission/admission).
func template(object runtime.Object) *corev1.PodTemplateSpec {
	switch object := object.(type) {
	case *corev1.Pod:
		return &corev1.PodTemplateSpec{ObjectMeta: object.ObjectMeta, Spec: object.Spec}
	case *corev1.PodTemplate:
		return &object.Template
	case *corev1.ReplicationController:
		return object.Spec.Template
	case *appsv1.ReplicaSet:
		return &object.Spec.Template
	case *appsv1.Deployment:
		return &object.Spec.Template
	case *appsv1.DaemonSet:
		return &object.Spec.Template
	case *appsv1.StatefulSet:
		return &object.Spec.Template
	case *batchv1.Job:
		return &object.Spec.Template
	case *batchv1.CronJob:
		return &object.Spec.JobTemplate.Spec.Template
	}
	return nil
}
